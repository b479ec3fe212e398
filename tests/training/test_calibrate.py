"""The fit of confidence: against plain definitions, and as a command without PyTorch."""

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import captioner
from captioner.data.karpathy import CaptionedImage
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from captioner.metrics.ngram_metrics import Cider
from tests.export.toy_captioners import toys, write_checkpoint  # noqa: F401
from training import calibrate
from training.confidence_fit import Reliability, confidences_of, fit_logistic, left_out

WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pycocoevalcap", "safetensors", "onnx"):
            raise ModuleNotFoundError(name, name=name.partition(".")[0])
sys.meta_path.insert(0, Missing())
from captioner.cli import main
sys.exit(main(sys.argv[1:]))
"""


def drawn(captions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Figures, and outcomes that follow from them by a known curve: shares of five trials."""
    draws = np.random.default_rng(seed)
    figures = np.stack([draws.normal(-12, 4, captions), draws.integers(5, 20, captions)], 1)
    chance = 1 / (1 + np.exp(-(2 + 0.4 * figures[:, 0] + 0.2 * figures[:, 1])))
    return figures, draws.binomial(5, chance) / 5


def test_the_fit_is_the_curve_of_greatest_likelihood() -> None:
    figures, outcomes = drawn(400)
    weights, bias = fit_logistic(figures, outcomes)
    values, targets = torch.tensor(figures), torch.tensor(outcomes)
    found = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = values @ found[:2] + found[2]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        value.backward()
        return value

    optimiser.step(loss)
    np.testing.assert_allclose([*weights, bias], found.detach().numpy(), rtol=0.02, atol=0.02)


def test_the_fit_of_many_captions_finds_the_curve_that_they_follow() -> None:
    figures, outcomes = drawn(20_000)
    weights, bias = fit_logistic(figures, outcomes)
    np.testing.assert_allclose([*weights, bias], [0.4, 0.2, 2.0], atol=0.1)
    reliability = Reliability.of(left_out(figures, outcomes, 0), outcomes)
    assert reliability.calibration_error < 0.015
    assert reliability.brier < 0.95 * reliability.brier_of_base_rate


def test_a_figure_that_is_the_same_everywhere_and_outcomes_that_are_all_alike_are_fitted() -> None:
    figures, outcomes = drawn(60)
    figures[:, 1] = 7
    assert fit_logistic(figures, outcomes)[0][1] == 0
    weights, bias = fit_logistic(figures, np.zeros(60))
    assert np.isfinite([*weights, bias]).all()
    assert confidences_of(weights, bias, figures).max() < 0.05


def test_measures_are_those_of_their_definitions() -> None:
    draws = np.random.default_rng(3)
    confidences = draws.random(83).round(1)  # with equals
    outcomes = draws.integers(0, 2, 83).astype(float)
    found = Reliability.of(confidences, outcomes)
    pairs = list(zip(confidences, outcomes, strict=True))
    assert found.brier == pytest.approx(sum((c - y) ** 2 for c, y in pairs) / 83)
    rate = sum(outcomes) / 83
    assert (found.captions, found.base_rate) == (83, pytest.approx(rate))
    assert found.brier_of_base_rate == pytest.approx(rate * (1 - rate))
    wins = [
        (c > other) + (c == other) / 2
        for (c, y), (other, against) in itertools.product(pairs, pairs)
        if y and not against
    ]
    assert found.auc == pytest.approx(sum(wins) / len(wins))
    assert sum(one.captions for one in found.bins) == 83
    assert max(one.captions for one in found.bins) - min(one.captions for one in found.bins) <= 1
    assert [one.confidence for one in found.bins] == sorted(one.confidence for one in found.bins)
    error = sum(abs(one.confidence - one.passed) * one.captions for one in found.bins) / 83
    assert found.calibration_error == pytest.approx(error)


def test_the_share_of_trials_counts_as_the_trials_themselves() -> None:
    confidences, shares = np.array([0.2, 0.7, 0.4]), np.array([0.4, 0.8, 0.0])
    alone = np.repeat(confidences, 5)
    trials = np.concatenate([np.arange(5) < round(5 * share) for share in shares]).astype(float)
    one, other = Reliability.of(confidences, shares), Reliability.of(alone, trials)
    assert one.brier == pytest.approx(other.brier)
    assert one.brier_of_base_rate == pytest.approx(other.brier_of_base_rate)
    assert one.auc == pytest.approx(other.auc)


def test_each_half_is_judged_by_the_other() -> None:
    figures, outcomes = drawn(100)
    spoilt = outcomes.copy()
    spoilt[:10] = 1 - spoilt[:10]
    first, second = (left_out(figures, given, seed=1) for given in (outcomes, spoilt))
    order = np.random.default_rng(1).permutation(100)
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        expected = confidences_of(*fit_logistic(figures[half], spoilt[half]), figures[other])
        np.testing.assert_allclose(second[other], expected)
    assert not np.allclose(first, second)


def cider_d(caption: str, references: list[str], everything: list[list[str]]) -> float:
    """CIDEr-D by its definition, with the idf of all references of all images."""

    def grams(text: str, n: int) -> Counter:
        words = text.split()
        return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))

    def weighted(text: str, n: int) -> dict:
        return {
            gram: count
            * (
                math.log(len(everything))
                - math.log(max(1, sum(any(gram in grams(t, n) for t in own) for own in everything)))
            )
            for gram, count in grams(text, n).items()
        }

    total = 0.0
    for n in (1, 2, 3, 4):
        for reference in references:
            one, other = weighted(caption, n), weighted(reference, n)
            norms = math.hypot(*one.values()) * math.hypot(*other.values())
            shared = sum(min(one[gram], other[gram]) * other[gram] for gram in one if gram in other)
            # coco-caption measures lengths in pairs of words.
            apart = max(0, len(caption.split()) - 1) - max(0, len(reference.split()) - 1)
            total += (shared / norms if norms else 0) * math.exp(-(apart**2) / 72)
    return 10 * total / 4 / len(references)


def test_captions_and_people_are_judged_against_the_same_others() -> None:
    texts = [
        ["a dog runs on grass", "the dog runs", "a brown dog on the grass"],
        ["two cats sit", "cats on a sofa", "a cat and a cat", "two grey cats"],
        ["a man rides a horse", "a man on a brown horse"],
        ["a lonely caption"],
    ]
    written = ["a dog on the grass", "two cats on a sofa", "a man rides a horse", "a caption"]
    scored = Cider(texts).score_without_each(written)
    for own, caption, (humans, model) in zip(texts, written, scored, strict=True):
        places = range(len(own)) if len(own) > 1 else ()
        rest = [own[:place] + own[place + 1 :] for place in places]
        assert humans == pytest.approx(
            [cider_d(text, some, texts) for text, some in zip(own, rest, strict=False)]
        )
        assert model == pytest.approx([cider_d(caption, some, texts) for some in rest])

    images = [
        CaptionedImage(number, Path(), "", "val", tuple(own), tuple(tuple(t.split()) for t in own))
        for number, own in enumerate(texts[:3])
    ]
    bar, passed = calibrate.judge(images, written[:3])
    scored = Cider(texts[:3]).score_without_each(written[:3])
    every = sorted(score for humans, _ in scored for score in humans)
    assert bar == every[len(every) // 2]
    assert passed == [sum(one >= bar for one in own) / len(own) for _, own in scored]
    assert 0 < sum(passed) < 3


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seventy little pictures, each with three captions of random words."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    draws = np.random.default_rng(0)
    for number in range(70):
        pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    captions = [[draws.integers(4, 60, 6) for _ in range(3)] for _ in range(70)]
    texts = [[[f"word{one}" for one in words] for words in own] for own in captions]
    return write_data(folder, texts)


def write_data(folder: Path, captions: list[list[list[str]]]) -> Path:
    entries = [
        {
            "filename": f"{number}.png",
            "imgid": number,
            "split": "val",
            "sentences": [{"tokens": words, "raw": " ".join(words)} for words in own],
        }
        for number, own in enumerate(captions)
    ]
    path = folder / "dataset_toy.json"
    path.write_text(json.dumps({"images": entries, "dataset": "toy"}))
    return path


@pytest.mark.usefixtures("toys")
def test_the_command_fits_stores_and_draws(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "run" / "best", "soft_attention", attention_size=20)
    people = json.loads(data.read_text())["images"]
    texts = [[one["tokens"] for one in image["sentences"]] for image in people]
    paths = [data.parent / "images" / image["filename"] for image in people]
    for own, caption in zip(
        texts[::2], captioner.load(checkpoint).caption(paths[::2]), strict=True
    ):
        own[0] = list(caption.tokens)  # the model says what people say
    write_data(data.parent, texts)

    words = [str(tmp_path / "run"), "--data", str(data), "--threads", "1"]
    words += ["--plot", str(tmp_path / "a.png"), "--out", str(tmp_path / "a.json")]
    assert calibrate.main(words) == 0
    printed = capsys.readouterr().out
    assert "on captions left out of the fit" in printed
    measures = json.loads((tmp_path / "a.json").read_text())
    assert measures["captions"] == 70
    assert f"AUC {measures['auc']:.3f}" in printed
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"

    model = captioner.load(checkpoint)
    pictures = sorted((data.parent / "images").iterdir())[:3]
    confidences = [one.confidence for one in model.caption(pictures)]
    assert all(0 < one < 1 for one in confidences)

    lines: list[str] = []
    export_captioner(checkpoint, ExportOptions(out=tmp_path / "out"), announce=lines.append)
    assert any("the checkpoint's curve" in line for line in lines)
    carried = captioner.load(tmp_path / "out")
    assert carried.confidence_curve == model.confidence_curve

    # The exported model is calibrated where PyTorch is not installed.
    command = [sys.executable, "-c", WITHOUT_TORCH, "calibrate", str(tmp_path / "out")]
    done = subprocess.run([*command, "--data", str(data)], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    again = captioner.load(tmp_path / "out").confidence_curve
    assert again is not None
    np.testing.assert_allclose(again.weights, model.confidence_curve.weights, rtol=1e-3)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "train"], "has 0 photographs with at least two captions in the split 'train'"),
        (["--plot", "a.gif"], "--plot is a.gif; give a name ending in .png"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_line(
    tmp_path: Path, data: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, data, words, said, capsys)


@pytest.mark.usefixtures("toys")
def test_captions_that_are_all_worse_than_people_s_cannot_be_fitted(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(data.parent, [[["some", f"name{number}"]] * 3 for number in range(70)])
    said = "no caption of the 70 photographs agrees with people's as well as half of theirs"
    refused(tmp_path, data, [], said, capsys)


def refused(
    tmp_path: Path, data: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "best", "show_tell")
    before = sorted(path.name for path in checkpoint.iterdir())
    assert calibrate.main([str(checkpoint), "--data", str(data), *words]) == 2
    problem = capsys.readouterr().err
    assert said in problem
    assert problem.splitlines()[-1].startswith("calibrate.py: ")
    assert sorted(path.name for path in checkpoint.iterdir()) == before


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--out", "data/dataset_toy.json"),
        ("--out", "run/best/model.json"),
        ("--plot", "data/images/3.png"),
    ],
)
def test_nothing_that_is_read_is_overwritten(
    tmp_path: Path, data: Path, flag: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "run" / "best", "show_tell")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = [str(checkpoint), "--data", str(data), flag, str(tmp_path / name)]
    assert calibrate.main(words) == 2
    said = f"{flag} would overwrite {tmp_path / name}, which is one of the files to read"
    [line] = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("toys")
def test_damaged_photographs_are_named_and_left_out(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "best", "soft_attention", attention_size=20)
    people = json.loads(data.read_text())["images"]
    texts = [[one["tokens"] for one in image["sentences"]] for image in people]
    paths = [data.parent / "images" / image["filename"] for image in people]
    for own, caption in zip(
        texts[::2], captioner.load(checkpoint).caption(paths[::2]), strict=True
    ):
        own[0] = list(caption.tokens)
    write_data(data.parent, texts)
    words = [str(checkpoint), "--data", str(data), "--out", str(tmp_path / "measures.json")]
    for number in (3, 20):
        path = data.parent / "images" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:60])
    assert calibrate.main(words) == 0
    named = [line for line in capsys.readouterr().err.splitlines() if "captioning" not in line]
    assert [line.split(":")[0] for line in named] == ["skipped", "skipped", "left out"]
    assert named[-1] == "left out: 2 of 70 photographs, which cannot be read"
    assert json.loads((tmp_path / "measures.json").read_text())["captions"] == 68

    # Those that are left are judged as if the others had never been there.
    curve = captioner.load(checkpoint).confidence_curve
    kept = [one for number, one in enumerate(people) if number not in (3, 20)]
    for image in kept:
        image["sentences"] = [
            {"tokens": own, "raw": " ".join(own)} for own in texts[image["imgid"]]
        ]
    data.write_text(json.dumps({"images": kept, "dataset": "toy"}))
    assert calibrate.main(words) == 0
    again = captioner.load(checkpoint).confidence_curve
    assert curve is not None
    assert again is not None
    assert again.weights == pytest.approx(curve.weights, rel=1e-6)
