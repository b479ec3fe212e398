"""The evaluation script: its scores are those of its captions, and its errors are one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import load_checkpoint
from captioner.cli import main as captioner_main
from captioner.data.karpathy import load_karpathy
from captioner.data.shapes import generate, named_rightly
from captioner.engines.torch_engine import TorchEngine
from captioner.features import Features
from captioner.metrics import METRICS
from captioner.metrics.ngram_metrics import Cider
from captioner.search_config import SearchConfig
from captioner.vocabulary import tokenize
from training.evaluate_coco import main

TrainHere = Callable[..., int]


def test_scores_are_those_of_the_captions_whichever_images_have_an_id(
    trained: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(sample.parent, tmp_path / "sample") / sample.name
    stored = json.loads(data.read_text())
    for entry in stored["images"][::2]:
        del entry["imgid"]
    data.write_text(json.dumps(stored))
    out, captions_out = tmp_path / "scores.json", tmp_path / "captions.json"
    words = ["--checkpoint", str(trained), "--split", "test", "--beam-size", "2"]
    words += ["--data", str(data), "--feature-store", str(tmp_path / "features")]
    assert main([*words, "--out", str(out), "--captions-out", str(captions_out)]) == 0
    found = json.loads(out.read_text())
    capsys.readouterr()
    assert captioner_main(["score", str(data), str(captions_out), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in METRICS if name in found} == {
        name: expected[name] for name in METRICS if name in expected
    }
    captions = {one["image_id"]: one["caption"] for one in json.loads(captions_out.read_text())}
    named = [
        named_rightly(tokenize(captions[image.image_id]), image.extra["scene"])
        for image in load_karpathy(data).split("test")
    ]
    assert found["shapes_named"] == sum(named) / len(named)
    assert found["signature"]["split"] == "test"
    assert found["signature"]["beam_size"] == 2
    assert found["signature"]["checkpoint_hash"] == load_checkpoint(trained).hash


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--beam-size", "0"], "beam_size is 0"),
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--data", "nowhere"], "there is no data set nowhere"),
        (["--device", "cuda:99"], "device is 'cuda:99'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["--checkpoint", str(trained), *words]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("evaluate_coco.py: ")
    assert message in line


def test_a_split_without_images_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path = generate(tmp_path / "no_test", seed=0, sizes=(4, 2, 0))
    assert main(["--checkpoint", str(trained), "--data", str(json_path)]) == 2
    assert "no captioned image in the split 'test' (train 4, val 2, test 0)" in (
        capsys.readouterr().err
    )


def test_data_that_have_gone_are_named(
    tiny: list[str], train_here: TrainHere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path = generate(tmp_path / "here", seed=0, sizes=(10, 2, 2))
    entry = json.loads(json_path.read_text())
    entry["dataset"] = "mine"
    json_path.write_text(json.dumps(entry))
    assert train_here(*tiny, "--data", json_path, "--epochs", "1", "--out", "run") == 0
    json_path.unlink()
    assert main(["--checkpoint", str(tmp_path / "run" / "best")]) == 2
    assert f"are not here ({json_path}); name them by --data" in capsys.readouterr().err


def test_the_image_is_needed(tiny_joint: list[str], train_here: TrainHere, tmp_path: Path) -> None:
    json_path = generate(tmp_path / "sample", seed=3, sizes=(300, 40, 0))
    size = ["--image-size", "48", "--grid", "3", "--hidden-size", "64", "--dropout", "0.1"]
    words = [*tiny_joint, "--data", str(json_path), *size, "--lr", "4e-3", "--epochs", "6"]
    assert train_here(*words, "--validate-every", "1000", "--out", "run") == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "last")
    images = load_karpathy(json_path).split("val")
    read = checkpoint.encoder.preprocessing.read
    features = checkpoint.encoder.encode([read(image.path) for image in images])
    cider = Cider([[" ".join(tokens) for tokens in image.tokens] for image in images])

    engine = TorchEngine(checkpoint.encoder, checkpoint.decoder)

    def score(features: Features) -> float:
        found = engine.search(features, SearchConfig())
        captions = [" ".join(checkpoint.vocabulary.decode(one[0].words)) for one in found]
        return cider.score(captions)[0]

    own = score(features)
    others = score(features.select(torch.arange(len(features)).roll(1)))
    assert others < own / 2


@pytest.mark.parametrize("flag", ["--out", "--captions-out"])
def test_nothing_that_is_read_is_overwritten(
    flag: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generate(tmp_path / "data", seed=0, sizes=(4, 2, 2))
    checkpoint = shutil.copytree(trained, tmp_path / "best")
    before = contents(tmp_path)
    for out in (data, data.parent / "images" / "../dataset_shapes.json", checkpoint / "model.json"):
        capsys.readouterr()
        assert main(["--checkpoint", str(checkpoint), "--data", str(data), flag, str(out)]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert f"{flag} would overwrite {out}, which is one of the files to read" in line
    both = [flag, str(tmp_path / "one.json"), "--out", str(tmp_path / "one.json")]
    if flag != "--out":
        assert main(["--checkpoint", str(checkpoint), "--data", str(data), *both]) == 2
        assert "--out and --captions-out are both" in capsys.readouterr().err
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
