"""The benchmark of inference: its references, its figures and its page, and what it refuses."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from captioner.checkpoint import save_checkpoint
from captioner.checkpoint_folders import SHIPPED
from captioner.decoders import build_decoder
from captioner.decoders.soft_attention import SoftAttentionOptions
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.native.decoding import find
from captioner.vocabulary import END, SPECIAL_TOKENS, Vocabulary

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def script() -> ModuleType:
    """The script, with the package that it imports beside it."""
    with pytest.MonkeyPatch.context() as patches:
        patches.syspath_prepend(str(SCRIPTS))
        import bench_inference

        return bench_inference


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny captioner whose captions take all steps, as those of the benchmark do."""
    encoder = create_encoder(EncoderConfig(name="test_resnet", weights="none", image_size=64))
    decoder = build_decoder(
        "soft_attention",
        SoftAttentionOptions(hidden_size=24, embedding_size=8, attention_size=12),
        vocabulary_size=50,
        feature_size=encoder.feature_size,
    )
    with torch.no_grad():
        decoder.output.weight *= 8.0  # type: ignore[operator]
        decoder.output.bias[END] = -50.0  # type: ignore[operator]
    folder = tmp_path_factory.mktemp("bench") / "checkpoint"
    words = Vocabulary((*SPECIAL_TOKENS, *(f"word{number}" for number in range(46))))
    save_checkpoint(folder, encoder=encoder, decoder=decoder, vocabulary=words, summary={})
    return folder


def asked(checkpoint: Path, **others: Any) -> dict[str, Any]:
    request = {"do": "load", "kind": "captioner", "folder": str(checkpoint), "engine": "torch"}
    request |= {"threads": 1, "is_before": False, "is_uncompiled": False, "photographs": []}
    return {**request, **others}


def test_the_textbook_and_the_search_find_the_same_captions(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.worker import answer

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    model = json.loads((checkpoint / "model.json").read_text())
    sizes = {"batch": 12, "features": model["decoder"]["config"]["feature_size"]}
    captions = []
    for kind in ("captioner", "textbook"):
        worker, _ = answer(None, asked(checkpoint, kind=kind))
        request = {"do": "decode", "seconds": 0.0, "most": 1, **sizes}
        captions.append(answer(worker, request)[1]["result"])
    assert captions[0] == captions[1]
    assert {len(caption) for caption in captions[0]} == {20}
    assert len({tuple(caption) for caption in captions[0]}) > 6


def test_a_worker_answers_with_seconds_captions_and_memory(
    checkpoint: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.worker import answer

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    request = asked(checkpoint, photographs=[str(path) for path in photographs])
    worker, facts = answer(None, request)
    assert facts["engine"]["engine"] == "torch"
    assert facts["load_seconds"] > 0
    for what, arguments in (("encode", {"batch": 2}), ("photograph", {"batch": 3}), ("read", {})):
        limits: dict[str, Any] = {"do": what, "seconds": 60.0, "most": 2, **arguments}
        reply = answer(worker, limits)[1]
        assert len(reply["seconds"]) == 2
        json.dumps(reply)
        if what == "photograph":
            assert len(reply["result"]) == 3
    memory = answer(worker, {"do": "memory"})[1]
    assert memory["peak_bytes"] > memory["own_bytes"] > 10e6


def test_a_worker_runs_the_graph_of_a_step_where_that_is_asked_for() -> None:
    from inference.worker import answer

    if find() is None:
        pytest.skip("no compiler, or no AVX2: nothing is compiled")
    said = []
    for is_uncompiled in (False, True):
        request = asked(SHIPPED, engine="onnxruntime", is_uncompiled=is_uncompiled)
        worker, facts = answer(None, request)
        said.append(facts["engine"]["step"])
        decode = {"do": "decode", "seconds": 0.0, "most": 1, "batch": 1, "features": 1280}
        said.append(answer(worker, decode)[1]["result"])
    assert said[::2] == ["compiled", "onnxruntime"]
    assert said[1] == said[3]


def test_turns_end_after_their_seconds_or_runs() -> None:
    from inference.worker import timed

    assert len(timed(lambda: None, seconds=60.0, most=3)["seconds"]) == 3
    assert len(timed(lambda: None, seconds=0.0, most=3)["seconds"]) == 1


def test_bare_products_multiply_all_that_a_step_reads(checkpoint: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from inference.limits import Limits, _graph

    limits = Limits(checkpoint, threads=1)
    assert limits.count == 24 * (4 * 24 + 12 + 1 + 50)
    hidden = np.random.default_rng(1).standard_normal((6, 24), np.float32)
    for is_int8 in (False, True):
        graph = _graph(limits.matrices, is_int8=is_int8)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for found, matrix in zip(
            session.run(None, {"hidden": hidden}), limits.matrices, strict=True
        ):
            wanted = hidden @ matrix
            if is_int8:  # the scales are left out; the pattern stays
                assert found.dtype == np.int32
                assert np.corrcoef(found[:, 0], wanted[:, 0])[0, 1] > 0.99
            else:
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for run in (limits.read(1), limits.products(2, "int8"), limits.products(2, "float32")):
        run()


def a_table(what: str, model: str, batch: int, **seconds: list[float]) -> dict[str, Any]:
    from inference.report import summary, with_ratios

    rows = {name.replace("_", " "): summary(every, batch) for name, every in seconds.items()}
    return {"what": what, "model": model, "batch": batch, "rows": with_ratios(rows)}


def test_figures_are_medians_and_ratios_to_the_first() -> None:
    table = a_table("decode", "resnet152", 8, torch=[0.9, 0.8, 4.0], onnxruntime_int8=[0.1] * 20)
    torch_row, row = table["rows"].values()
    assert torch_row["images_per_second"] == pytest.approx(8 / 0.9)
    assert torch_row["p95_ms"] == pytest.approx(4000)
    assert row["ms_per_image"] == pytest.approx(12.5)
    assert row["ratios"] == {"torch": pytest.approx(9)}


def test_ratios_are_to_every_earlier_commit() -> None:
    from inference.report import table_as_markdown, targets_table

    before = {"torch at a": [0.9], "torch at b": [0.3]}
    table = a_table("photograph", "lite1", 1, **before, onnxruntime_int8=[0.1], torch=[0.6])
    assert table["rows"]["onnxruntime int8"]["ratios"] == {
        "torch at a": pytest.approx(9),
        "torch at b": pytest.approx(3),
    }
    assert "| x a | x b |" in table_as_markdown(table)
    assert "| 1.50 | 0.50 |" in table_as_markdown(table)
    assert "≥ 5x | 9x; 3x at b | onnxruntime int8 |" in targets_table([table])


def test_targets_say_what_is_missed() -> None:
    from inference.report import targets_table

    tables = [
        a_table("decode", "resnet152", 1, torch=[0.4], onnxruntime_int8=[0.02]),
        a_table("decode", "resnet152", 8, torch=[0.8], onnxruntime_int8=[0.4], openvino=[0.2]),
        a_table("load", "lite1", 1, torch=[8.0], onnxruntime_float32=[0.6]),
    ]
    for table in tables[:1]:
        table["rows"]["limit: int8 weights read"] = {"ms_per_image": 10.0}
    lines = targets_table(tables).splitlines()
    assert any("alone |" in line and "20x | 20x |" in line for line in lines)
    assert any("batch 8" in line and "4x, **missed** | openvino" in line for line in lines)
    assert any("read once" in line and "2x, **missed**" in line for line in lines)
    assert any("import and load" in line and "0.6 s, **missed**" in line for line in lines)


def test_tables_are_put_between_their_marks(script: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "inference.md"
    script.write_page(page, "first")
    page.write_text(f"# Title\n\n{page.read_text()}\nafter\n")
    script.write_page(page, "second")
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("\nafter\n")
    assert "second" in text
    assert "first" not in text


def test_a_contestant_that_fails_is_named_with_its_reason() -> None:
    from inference.report import table_as_markdown

    table = a_table("photograph", "lite1", 1, torch=[0.1])
    table["rows"]["openvino int8"] = {"error": "no such engine"}
    text = table_as_markdown(table)
    assert "openvino int8: not measured (no such engine)" in text
    assert "| torch | 10 |" in text


def test_the_picture_has_a_panel_for_each_table(tmp_path: Path) -> None:
    from inference.report import draw

    tables = [a_table("photograph", "lite1", 1, torch=[0.1], onnxruntime_int8=[0.02])]
    draw({"photograph": {"tables": tables}}, tmp_path / "inference.png")
    assert (tmp_path / "inference.png").read_bytes().startswith(b"\x89PNG")


def test_photographs_are_the_same_each_time() -> None:
    from inference.models import drawn

    one, other = (np.asarray(drawn(3, (80, 60))) for _ in range(2))
    assert (one == other).all()
    assert (one != np.asarray(drawn(4, (80, 60)))).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--before", "/nowhere"], "--before /nowhere has no captioner/"),
        (["--parts", "encoder"], "--parts"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--contestants", "tensorflow"], "--contestants has tensorflow; here are textbook"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = script.main(arguments)
    except SystemExit as refused:  # of the parser
        status = refused.code
    assert status == 2
    assert said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
