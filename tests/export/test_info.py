"""`captioner info`: what it says of a checkpoint and of the folder exported from it."""

import json

import pytest

from captioner.cli import main
from captioner.engines import DEPLOYABLE
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from tests.export.toy_captioners import renew_hashes, toys, write_checkpoint  # noqa: F401


@pytest.mark.usefixtures("toys")
def test_both_kinds_of_folder_are_described(tmp_path, capsys):
    summary = {
        "step": 240,
        "epoch": 2.0,
        "scores_val": {"CIDEr": 0.25},
        "data": {"sets": [{"name": "one"}, {"name": "two"}]},
    }
    checkpoint = write_checkpoint(tmp_path / "run" / "best", "show_tell", summary=summary)
    out = export_captioner(checkpoint, ExportOptions(), announce=lambda _: None)
    for folder, engine, kind in (
        (tmp_path / "run", "torch", "checkpoint"),
        (out, "onnxruntime", "deployable folder"),
    ):
        assert main(["info", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["engine"], found["kind"]) == (engine, kind)
        assert found["precision"] == {"encoder": "float32", "decoder": "float32"}
        assert (found["encoder"], found["decoder"], found["words"]) == ("toy", "show_tell", 64)
        assert found["summary"] == summary
        assert found["files"].keys() == {*found["hashes"], "hashes.json"}
        assert main(["info", str(folder)]) == 0
        lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        assert lines["trained on"].strip() == "one, two"
        assert lines["validation"].strip() == "CIDEr 0.2500"
        assert engine in lines["engine"]
    path = out / DEPLOYABLE
    facts = path.read_text()
    for name, value in (("checks", {"greatest": 1}), ("summary", {"scores_val": [0.25]})):
        path.write_text(json.dumps({**json.loads(facts), name: value}))
        renew_hashes(out)
        assert main(["info", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path} does not say what captioner writes there")
    path.write_text(facts)
    renew_hashes(out)
    path = out / "step.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["info", str(out)]) == 2
    assert f"{path} is truncated or was altered" in capsys.readouterr().err
