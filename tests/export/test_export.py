"""An exported captioner against the checkpoint that it was made of."""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import captioner
from captioner.cli import main
from captioner.engines import DEPLOYABLE, onnx_engine
from captioner.errors import CaptionerError, CheckpointError, OptionError, StorageError
from captioner.export import checks
from captioner.export.checks import ExportError
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from captioner.hashed_folder import HASHES
from captioner.vocabulary import START
from tests.export.toy_captioners import (  # noqa: F401
    pictures,
    renew_hashes,
    toys,
    write_checkpoint,
)

pytestmark = pytest.mark.usefixtures("toys")

DECODERS = [
    ("soft_attention", {"attention_size": 20}),
    ("soft_attention", {"attention_size": 20, "feature_embedding_size": 18}),
    ("soft_attention", {"attention_size": 20, "attributes": 4}),
    ("soft_attention", {"attention_size": 20, "attributes": 4, "attribute_detector": "mil"}),
    ("show_tell", {}),
    ("neuraltalk", {}),
    ("hard_attention", {"attention_size": 20}),
    ("adaptive_attention", {"attention_size": 20}),
    ("lstm_attributes", {}),
    ("lstm_attributes", {"variant": 2, "attributes": 3}),
    ("att_fcn", {"attributes": 4}),
    ("twinnet", {}),
    ("toy", {"toy_depth": 2}),
    ("growing", {}),
]


def export(checkpoint: Path, out: Path, **options) -> list[str]:
    lines: list[str] = []
    export_captioner(checkpoint, ExportOptions(out=out, **options), announce=lines.append)
    return lines


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
@pytest.mark.parametrize("beam_size", [1, 3])
def test_captions_equal_those_of_the_checkpoint(tmp_path, decoder, options, beam_size):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", decoder, **options)
    export(checkpoint, tmp_path / "out")
    by_torch = captioner.load(checkpoint)
    by_graphs = captioner.load(tmp_path / "out")
    assert by_graphs.engine.name == "onnxruntime"
    images = pictures(5)
    pairs = zip(
        by_torch.captions(images, num_captions=beam_size, beam_size=beam_size, max_length=9),
        by_graphs.captions(images, num_captions=beam_size, beam_size=beam_size, max_length=9),
        strict=True,
    )
    log_probs = set()
    for expected, found in pairs:
        assert [one.text for one in found] == [one.text for one in expected]
        log_probs.add(round(found[0].log_prob, 2))
        for one, other in zip(found, expected, strict=True):
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
            if other.attention is None:
                assert one.attention is None
            else:
                np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)
            np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-4)
            attends = other.attention is not None or decoder == "att_fcn"
            assert len(one.attributes) == (options.get("attributes", 0) if attends else 0)
            if one.attributes:  # of nearly equal probabilities any may come first
                by_word = [
                    dict(zip(dict(each.attributes), each.attribute_attention.T, strict=True))
                    for each in (one, other)
                ]
                assert by_word[0].keys() == by_word[1].keys()
                for word, weights in by_word[0].items():
                    np.testing.assert_allclose(weights, by_word[1][word], atol=1e-5)
                assert 0 < one.attribute_attention.sum() < len(one.tokens) + 1e-4
            assert list(one.shares) == list(other.shares)
            for name, of_tokens in one.shares.items():
                np.testing.assert_allclose(of_tokens, other.shares[name], atol=1e-5)
    assert len(log_probs) > 1  # else the pictures would not matter


def test_the_folder_says_what_it_is(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "run" / "best", "show_tell")
    lines = []
    out = export_captioner(tmp_path / "run", ExportOptions(), announce=lines.append)
    assert out == tmp_path / "run" / "deployable"
    assert "log-probabilities differ" in lines[1]
    facts = json.loads((out / DEPLOYABLE).read_text())
    assert facts["summary"] == {"training": {"steps": 7}}
    assert facts["checkpoint_hash"] == captioner.load(checkpoint).hash
    assert facts["checks"]["greatest_log_prob_difference"] < 1e-4
    assert facts["parts"]["decoder"]["precision"] == "float32"
    files = sorted(path.name for path in out.iterdir())
    named = [name for part in facts["parts"].values() for name in part["files"]]
    assert files == sorted([*named, DEPLOYABLE, HASHES, "vocabulary.json"])
    described = captioner.load(out, threads=1).engine.describe()
    assert (described["engine"], described["threads"]) == ("onnxruntime", 1)


def test_graphs_that_compute_something_else_are_not_written(tmp_path, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    monkeypatch.setattr(checks, "TOLERANCE", 1e-12)
    with pytest.raises(ExportError, match=r"differ from the checkpoint's by .* nothing was writ"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["step.weights", "encoder.onnx", "vocabulary.json"])
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    export(write, tmp_path / "out")
    path = tmp_path / "out" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + b"\x07")
    with pytest.raises(CheckpointError, match=name) as raised:
        captioner.load(tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_a_later_version_is_refused_in_one_line(tmp_path):
    export(write_checkpoint(tmp_path / "checkpoint", "show_tell"), tmp_path / "out")
    path = tmp_path / "out" / DEPLOYABLE
    facts = json.loads(path.read_text()) | {"format_version": 2, "parts": "other"}
    path.write_text(json.dumps(facts))
    renew_hashes(tmp_path / "out")
    with pytest.raises(CheckpointError, match="has format_version 2, this program reads 1"):
        captioner.load(tmp_path / "out")


WRONG_FACTS = {
    "grid": None,
    "feature_size": 0,
    "preprocessing": [],
    "summary": "none",
    "parts": {"encoder": {"precision": "float32"}},
    "share_names": -1,
    "engine": "of tomorrow",
    "checks": [1],
}


def test_facts_and_graphs_that_do_not_fit_are_refused_in_one_line(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "soft_attention", attention_size=20)
    export(checkpoint, tmp_path / "out")

    def refusal(changes: dict[str, object], files: dict[str, str]) -> str:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "out", folder)
        facts = json.loads((folder / DEPLOYABLE).read_text())
        (folder / DEPLOYABLE).write_text(json.dumps({**facts, **changes}))
        for name, source in files.items():
            shutil.copy(folder / source, folder / name)
        renew_hashes(folder)
        with pytest.raises(CheckpointError) as refused:
            captioner.load(folder)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    for name, value in WRONG_FACTS.items():
        assert f"deployable.json has {name} {value!r}" in refusal({name: value}, {})
    for changes, said in (
        ({"grid": 4}, "prepare.onnx was made for another grid than"),
        ({"feature_size": 7}, "prepare.onnx was made for another feature_size than"),
        (
            {"share_names": ["sentinel"]},
            "step.onnx was made for another grid, or other share_names",
        ),
    ):
        assert said in refusal(changes, {})
    size = captioner.load(tmp_path / "out").preprocessing.to_json() | {"image_size": 48}
    assert "makes them of 48" in refusal({"preprocessing": size}, {})
    assert "image_mode is 'whole'" in refusal({"preprocessing": size | {"image_mode": "whole"}}, {})
    for name, source in (("step", "prepare"), ("prepare", "step"), ("encoder", "prepare")):
        said = refusal({}, {f"{name}.onnx": f"{source}.onnx"})
        assert f"{name}.onnx holds another graph" in said


def test_pictures_of_many_sizes_cannot_be_exported(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell", image_mode="whole")
    with pytest.raises(OptionError, match="image_mode of the checkpoint is 'whole'"):
        export(checkpoint, tmp_path / "out")


def test_no_other_folder_is_overwritten(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    with pytest.raises(OptionError, match="which holds a checkpoint"):
        export(checkpoint, checkpoint)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(OptionError, match="is no deployable folder"):
        export(checkpoint, tmp_path / "mine")
    export(checkpoint, tmp_path / "out")
    export(checkpoint, tmp_path / "out")  # its own may be replaced
    said = []
    with pytest.raises(StorageError, match=r"--out is .*letter.txt/out, and .* cannot be written"):
        options = ExportOptions(out=tmp_path / "mine" / "letter.txt" / "out")
        export_captioner(checkpoint, options, announce=said.append)
    assert not said  # before the work


def test_what_else_lies_in_an_earlier_folder_stays_there(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    out = tmp_path / "out"
    export(checkpoint, out)
    hashes = (out / HASHES).read_bytes()
    (out / "NOTES.md").write_text("mine")
    (out / "pictures").mkdir()
    (out / "pictures" / "dog.txt").write_text("a dog")
    listed = {**json.loads(hashes), "old.onnx": ""}
    (out / "old.onnx").write_text("of an earlier export")
    (out / HASHES).write_text(json.dumps(listed))
    export(checkpoint, out)
    assert (out / "NOTES.md").read_text() == "mine"
    assert (out / "pictures" / "dog.txt").read_text() == "a dog"
    assert not (out / "old.onnx").exists()
    assert json.loads((out / HASHES).read_bytes()).keys() == json.loads(hashes).keys()
    (out / HASHES).write_text("{")
    with pytest.raises(OptionError, match="does not say which files an export wrote"):
        export(checkpoint, out)
    assert (out / "NOTES.md").read_text() == "mine"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_of_graphs_says_that_a_folder_is_a_checkpoint(tmp_path, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    checkpoint = write_checkpoint(tmp_path / "run" / "best", "show_tell")
    said = rf"{checkpoint} is a checkpoint, .* leave the engine out, .* captioner export"
    for folder in (checkpoint, tmp_path / "run"):
        with pytest.raises(CheckpointError, match=said):
            captioner.load(folder, engine=engine)


def test_a_full_disk_is_told_from_what_cannot_be_exported(tmp_path, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(
            StorageError, match=r"work cannot hold .* in the environment variable TMP"
        ):
            export(checkpoint, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "work").iterdir())


def test_many_callers_open_the_encoder_for_batches_once(tmp_path, monkeypatch):
    export(write_checkpoint(tmp_path / "checkpoint", "show_tell"), tmp_path / "out")
    engine = captioner.load(tmp_path / "out", threads=2).engine
    plain, opened = onnx_engine.open_graph, []

    def slowly(path, threads):
        opened.append(threads)
        time.sleep(0.05)
        return plain(path, threads)

    monkeypatch.setattr(onnx_engine, "open_graph", slowly)
    pixels = [np.asarray(one.resize((32, 32))) for one in pictures(3)]
    with ThreadPoolExecutor(4) as callers:
        together = list(callers.map(engine.encode, [pixels] * 4))
    assert opened == [1]
    alone = [engine.encode([one]).grid[0] for one in pixels]
    for features in together:
        np.testing.assert_allclose(features.grid, alone, rtol=1e-6)


def test_more_candidates_than_words_are_all_words(tmp_path):
    export(write_checkpoint(tmp_path / "checkpoint", "show_tell"), tmp_path / "out")
    engine = captioner.load(tmp_path / "out").engine
    decoding = engine.begin(engine.encode([np.zeros((32, 32, 3), np.uint8)]))
    first = np.zeros((1, 1), dtype=np.int64)
    found = decoding.step(first + START, first, 1000, first)
    assert sorted(found.words[0, 0]) == list(range(64))


def test_a_device_that_graphs_do_not_run_on_is_refused(tmp_path):
    export(write_checkpoint(tmp_path / "checkpoint", "show_tell"), tmp_path / "out")
    with pytest.raises(OptionError, match="device is 'cuda', and engine onnxruntime runs on the"):
        captioner.load(tmp_path / "out", device="cuda")


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch, capfd):
    from captioner.decoders.show_tell import ShowTell

    def step(self, words, state, memory):
        result = plain(self, words, state, memory)
        square = result.state.h.transpose(1, 2) @ result.state.h
        return result._replace(logits=result.logits + torch.linalg.eigvalsh(square)[:, None, :1])

    plain = ShowTell.step
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    monkeypatch.setattr(ShowTell, "step", step)
    with pytest.raises(CaptionerError, match="decoder show_tell cannot be exported") as raised:
        export(checkpoint, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().out == ""  # where the exporter prints its graphs


def test_the_command_exports_and_the_folder_captions(tmp_path, capsys, photographs):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "soft_attention")
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "out")]) == 0
    assert "log-probabilities differ from torch's" in capsys.readouterr().out
    assert main(["caption", str(photographs[0]), "--checkpoint", str(tmp_path / "out")]) == 0
    made = capsys.readouterr().out
    assert main(["caption", str(photographs[0]), "--checkpoint", str(checkpoint)]) == 0
    assert made == capsys.readouterr().out
    calibration = ["--precision", "int8", "--calibration", str(photographs[0].parent)]
    assert main(["export", str(checkpoint), *calibration]) == 2
    assert "--calibration without --allow-loss" in capsys.readouterr().err


def test_captions_are_made_where_torch_cannot_be_imported(tmp_path, photographs):
    export(write_checkpoint(tmp_path / "checkpoint", "soft_attention"), tmp_path / "out")
    code = (
        "import sys; sys.modules['torch'] = None; import captioner\n"
        "print(captioner.load(sys.argv[1]).caption([sys.argv[2]])[0].text)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), str(photographs[0])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (expected,) = captioner.load(tmp_path / "checkpoint").caption([photographs[0]])
    assert done.stdout.strip() == expected.text
