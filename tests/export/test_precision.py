"""Precisions: int8 close to float32, the same in any batch, refused where it costs too much."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import captioner
from captioner.cli import main
from captioner.data.shapes import generate
from captioner.engines import DEPLOYABLE
from captioner.errors import DataError
from captioner.export import judging, precision
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from captioner.export.judging import Verdict
from captioner.export.photographs import Photographs
from captioner.features import Features
from captioner.vocabulary import START
from tests.export.toy_captioners import pictures, toys, write_checkpoint  # noqa: F401

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("captioner.export.measurement._SECONDS", 0.01)


def photographs_in(folder, count=19):  # the last of a batch of 16 and more
    folder.mkdir()
    for number, picture in enumerate(pictures(count, seed=5)):
        picture.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return folder


@pytest.mark.parametrize("decoder", ["soft_attention", "show_tell", "toy", "growing"])
def test_int8_is_close_and_the_same_in_any_batch(tmp_path, decoder, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", decoder)
    lines = []
    options = ExportOptions(
        out=tmp_path / "out",
        precision="int8",
        calibration=photographs_in(tmp_path / "calibration"),
        allow_loss=True,
    )
    export_captioner(checkpoint, options, announce=lines.append)
    assert capsys.readouterr().out == ""  # the libraries have much to say of their steps
    facts = json.loads((tmp_path / "out" / DEPLOYABLE).read_text())
    assert {part["precision"] for part in facts["parts"].values()} == {"int8"}
    exact, whole = captioner.load(checkpoint).engine, captioner.load(tmp_path / "out").engine
    features = Features(np.random.default_rng(1).uniform(0, 1, (4, 9, 6)).astype(np.float32))

    def log_probs(engine, of):
        every = np.tile(np.arange(64), (len(of), 1))
        first = np.zeros((len(of), 1), dtype=np.int64)
        decoding = engine.begin(of)
        found = [decoding.step(first + START, first, 3, every).wanted]
        found.append(decoding.step(first + 7, first, 3, every).wanted)
        return np.stack(found)

    together = log_probs(whole, features)
    np.testing.assert_allclose(together[..., 4:], log_probs(exact, features)[..., 4:], atol=0.6)
    for image in range(4):
        alone = log_probs(whole, features.select(slice(image, image + 1)))
        np.testing.assert_allclose(alone[:, 0], together[:, image], atol=2e-6)
    assert any(line.startswith("* decoder by onnxruntime in int8") for line in lines)


def largest_weight(graph):
    weights = (numpy_helper.to_array(one) for one in onnx.load(graph).graph.initializer)
    return max(weights, key=lambda values: values.size)


def test_an_encoder_is_stored_in_float16_and_computes_in_float32(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    for name, of_encoder in (("whole", "float32"), ("half", "float16")):
        options = ExportOptions(
            out=tmp_path / name,
            precision="int8",
            encoder_precision=of_encoder,
            calibration=photographs_in(tmp_path / f"photographs_{name}"),
            allow_loss=True,
        )
        export_captioner(checkpoint, options, announce=lambda _: None)
    facts = [json.loads((tmp_path / name / DEPLOYABLE).read_text()) for name in ("whole", "half")]
    precisions = [{name: part["precision"] for name, part in one["parts"].items()} for one in facts]
    assert precisions == [
        {"encoder": "float32", "decoder": "int8"},
        {"encoder": "float16", "decoder": "int8"},
    ]
    whole, half = (captioner.load(tmp_path / name).engine for name in ("whole", "half"))
    sizes = [largest_weight(tmp_path / name / "encoder.onnx").nbytes for name in ("whole", "half")]
    assert sizes[1] == sizes[0] / 2
    pixels = [np.asarray(one.resize((32, 32))) for one in pictures(3)]
    expected, found = (np.asarray(engine.encode(pixels).grid) for engine in (whole, half))
    assert found.dtype == np.float32
    gap = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0.0 < gap < 1e-3


@pytest.mark.parametrize(
    ("of_encoder", "gap"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 0.1)]
)
def test_openvino_runs_the_encoder_where_it_is_asked_for(tmp_path, of_encoder, gap):
    pytest.importorskip("openvino")
    if of_encoder == "int8":
        pytest.importorskip("nncf")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    options = ExportOptions(
        out=tmp_path / "out",
        engine="openvino",
        encoder_precision=of_encoder,
        calibration=photographs_in(tmp_path / "calibration"),
        allow_loss=True,
    )
    export_captioner(checkpoint, options, announce=lambda _: None)
    exact, engine = captioner.load(checkpoint).engine, captioner.load(tmp_path / "out").engine
    assert engine.name == "openvino"
    assert engine.describe()["precision"] == {"encoder": of_encoder, "decoder": "float32"}
    pixels = [np.asarray(one.resize((32, 32))) for one in pictures(9)]
    expected, found = (one.encode(pixels).numpy().grid for one in (exact, engine))
    assert np.abs(found - expected).max() < gap * np.abs(expected).max()


def shapes_checkpoint(tmp_path):
    generate(tmp_path / "shapes", seed=0, sizes=(12, 6, 4))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "soft_attention")
    return checkpoint, str(tmp_path / "shapes" / "dataset_shapes.json")


@pytest.mark.parametrize("allow_loss", [False, True])
def test_a_part_that_costs_too_much_is_refused(tmp_path, monkeypatch, allow_loss):
    checkpoint, data = shapes_checkpoint(tmp_path)
    lines = []
    options = ExportOptions(
        out=tmp_path / "out", precision="int8", data=data, allow_loss=allow_loss
    )
    monkeypatch.setattr(precision.PrecisionChooser, "_cider", property(lambda _: 1.0), raising=True)
    scores = iter([0.995, 0.98])  # of the decoder, of the encoder
    monkeypatch.setattr(judging.Judge, "cider", lambda *_: next(scores))
    export_captioner(checkpoint, options, announce=lines.append)
    parts = json.loads((tmp_path / "out" / DEPLOYABLE).read_text())["parts"]
    assert parts["decoder"]["precision"] == "int8"
    assert parts["encoder"]["precision"] == ("int8" if allow_loss else "float32")
    of_encoder = [line for line in lines if line.startswith("encoder by onnxruntime in int8")]
    if allow_loss:
        remark = "costs more than 1%, which --allow-loss accepts"
    else:
        remark = (
            "is refused: CIDEr 1.0000 -> 0.9800 (-2.00%), allowed is a loss below 1%; "
            "--allow-loss accepts it"
        )
    assert of_encoder == [f"encoder by onnxruntime in int8 {remark}"]


def test_auto_chooses_the_quickest_and_says_so(tmp_path, monkeypatch):
    checkpoint, data = shapes_checkpoint(tmp_path)
    monkeypatch.setattr(precision, "find_spec", lambda _: None)  # no OpenVINO
    speed = {("encoder", "int8"): 9.0, ("decoder", "int8"): 3.0}

    def rates(engines, *_):
        return {
            part: dict.fromkeys((1, 8), speed.get((part.of, part.precision), 5.0))
            for part in engines
        }

    monkeypatch.setattr(precision, "encoder_rates", rates)
    monkeypatch.setattr(precision, "decoder_rates", rates)
    monkeypatch.setattr(judging.Judge, "cider", lambda *_: 1.0)
    lines = []
    options = ExportOptions(out=tmp_path / "out", precision="auto", data=data)
    export_captioner(checkpoint, options, announce=lines.append)
    facts = json.loads((tmp_path / "out" / DEPLOYABLE).read_text())
    assert facts["parts"]["encoder"]["precision"] == "int8"
    assert facts["parts"]["decoder"]["precision"] == "float32"
    assert facts["choice"]["images_per_second"]["encoder by torch in float32"]["batch_1"] == 5.0
    assert sum(line.startswith("* ") for line in lines) == 2
    assert facts["checks"]["captions"]["images"] == 6


def find(options, summary):
    return Photographs.find(options, summary, lambda _: None, print, print)


def test_all_sets_of_a_training_are_found_again(tmp_path):
    sets = []
    for seed in (0, 1):
        folder = tmp_path / f"shapes{seed}"
        generate(folder, seed=seed, sizes=(12, 6, 4))
        json_path = folder / "dataset_shapes.json"
        sets.append({"name": "any", "json": str(json_path), "images": str(folder / "images")})
    summary = {"data": {"name": "any+any-2", "sets": sets}}
    found = find(ExportOptions(), summary)
    assert len(found.calibration) == 24
    assert len(found.validation) == 12
    assert {path.parent for path in found.calibration} == {Path(one["images"]) for one in sets}
    sets[1]["json"] = str(tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"not here \(.*gone\.json\); name data by --data"):
        find(ExportOptions(precision="int8"), summary)


def test_int8_without_photographs_is_refused(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    with pytest.raises(DataError, match=r"trained on are not here \(None\); name data by --data"):
        export_captioner(checkpoint, ExportOptions(precision="int8"), announce=print)


def test_the_loss_is_relative():
    assert Verdict(before=0.5, after=0.4951).is_accepted
    assert not Verdict(before=0.5, after=0.495).is_accepted
    assert Verdict(before=0.01, after=0.02).is_accepted


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((6, 0, 0), {"precision": "int8"}, "number 0, .* what int8 costs .*-loss"),
        ((6, 1, 0), {"precision": "int8"}, "number 1, .* what int8 costs .*-loss"),
        ((6, 0, 0), {"encoder_precision": "float16"}, "what float16 costs cannot be judged"),
        ((6, 4, 0), {"precision": "int8", "val_images": 1}, "more --val-images"),
        ((0, 4, 0), {"precision": "int8"}, "no photograph to calibrate int8 on; .* --calibration"),
        ((0, 4, 0), {"precision": "int8", "allow_loss": True}, "no photograph to calibrate int8"),
        ((6, 4, 0), {"precision": "int8"}, "decoder .* in int8: CIDEr in float32 is 0 on 4 valid"),
    ],
)
def test_what_cannot_be_calibrated_or_judged_is_refused(tmp_path, sizes, options, message):
    data = str(generate(tmp_path / "shapes", seed=0, sizes=sizes))  # of no word that it knows
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    options = ExportOptions(out=tmp_path / "out", data=data, **options)
    with pytest.raises(DataError, match=message):
        export_captioner(checkpoint, options, announce=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("val_images", [0, 4])
def test_auto_takes_no_int8_that_nothing_judges(tmp_path, val_images):
    data = str(generate(tmp_path / "shapes", seed=0, sizes=(6, val_images, 0)))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    for allow_loss in (False, True):
        lines = []
        options = ExportOptions(
            out=tmp_path / "out", data=data, precision="auto", allow_loss=allow_loss
        )
        export_captioner(checkpoint, options, announce=lines.append)
        if not allow_loss:
            assert any("left out" in line for line in lines)
            facts = json.loads((tmp_path / "out" / DEPLOYABLE).read_text())
            assert {part["precision"] for part in facts["parts"].values()} == {"float32"}


def test_float16_needs_no_data_where_a_loss_is_allowed(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    options = ExportOptions(out=tmp_path / "out", encoder_precision="float16")
    with pytest.raises(DataError, match="name data by --data"):
        export_captioner(checkpoint, options, announce=print)
    options = ExportOptions(out=tmp_path / "out", encoder_precision="float16", allow_loss=True)
    export_captioner(checkpoint, options, announce=print)
    facts = json.loads((tmp_path / "out" / DEPLOYABLE).read_text())
    assert facts["parts"]["encoder"]["precision"] == "float16"


def test_damaged_photographs_are_named_and_left_out(tmp_path, capsys):
    data = generate(tmp_path / "shapes", seed=0, sizes=(6, 4, 0))
    images = json.loads(data.read_text())["images"]
    first = {one["split"]: data.parent / "images" / one["filename"] for one in images[::-1]}
    for path in first.values():
        path.write_bytes(path.read_bytes()[:60])
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    words = ["export", str(checkpoint), "--out", str(tmp_path / "out"), "--data", str(data)]
    assert main([*words, "--precision", "int8", "--allow-loss"]) == 0
    printed = capsys.readouterr()
    assert "on 5 photographs" in printed.out
    *named, counted = printed.err.splitlines()
    assert sorted(line.split()[:2] for line in named) == sorted(
        ["skipped:", str(path)] for path in first.values()
    )
    assert counted == "left out: 2 of 10 photographs, which cannot be read"
    facts = json.loads((tmp_path / "out" / DEPLOYABLE).read_text())
    assert facts["checks"]["captions"]["images"] == 3
    for path in (data.parent / "images").iterdir():
        path.write_bytes(b"")
    assert main([*words, "--precision", "int8", "--allow-loss"]) == 2
    assert "has no photograph to calibrate int8 on" in capsys.readouterr().err
