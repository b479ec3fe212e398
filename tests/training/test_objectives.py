"""An objective is a class and an entry: it brings options, sees references, logs figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioner.decoders import Decoder
from captioner.options import option
from training.objectives import OBJECTIVES, CrossEntropy
from training.objectives.interface import DecoderPass, ObjectiveBatch, ObjectiveOptions
from training.run_folder import RunFolder, read_metrics

TrainHere = Callable[..., int]
SEEN: list[ObjectiveBatch] = []


@dataclass(frozen=True, kw_only=True)
class DoubledOptions(ObjectiveOptions):
    factor: float = option(2.0, "what the cross-entropy is multiplied by")


class Doubled(CrossEntropy):
    """Cross-entropy of the same captions, times a factor; its figure is the plain one."""

    Options = DoubledOptions

    def __call__(
        self, decoder: Decoder, batch: ObjectiveBatch, run_decoder: DecoderPass
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        SEEN.append(batch)
        output = run_decoder(decoder, batch.features, batch.captions)
        plain = torch.nn.functional.cross_entropy(output.logits, batch.captions.targets)
        return self.options.factor * plain, {"plain": plain}


@pytest.fixture(autouse=True)
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "doubled", Doubled)
    SEEN.clear()


def test_an_objective_trains_resumes_and_logs_its_figures(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    still = [*tiny, "--lr", "1e-30", "--epochs", "1", "--dropout", "0"]
    assert train_here(*still, "--out", "plain") == 0
    assert train_here(*still, "--objective", "doubled", "--factor", "4", "--out", "run") == 0
    [plain] = [line for line in read_metrics(RunFolder(tmp_path / "plain")) if "lr" in line]
    [line] = [line for line in read_metrics(RunFolder(tmp_path / "run")) if "lr" in line]
    assert list(line)[3:] == ["loss", "plain", "lr", "captions_per_second", "seconds"]
    assert line["plain"] == pytest.approx(plain["loss"], rel=1e-6)
    assert line["loss"] == pytest.approx(4 * plain["loss"], rel=1e-6)
    assert train_here("--resume", "run", "--epochs", "2") == 0
    lines = read_metrics(RunFolder(tmp_path / "run"))
    assert [one["plain"] for one in lines if "lr" in one][1] > 0


def test_an_objective_sees_all_captions_of_its_images(
    tiny: list[str], train_here: TrainHere
) -> None:
    words = [*tiny, "--captions-per-image", "2", "--epochs", "1", "--objective", "doubled"]
    assert train_here(*words) == 0
    for batch in SEEN:
        assert len(batch.references) == len(batch.features.grid)
        assert all(len(captions) == 5 and all(captions) for captions in batch.references)
        assert batch.captions.num_captions == 2 * len(batch.references)


def test_its_options_belong_to_it_alone(
    tiny: list[str], train_here: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, message in (
        (["--factor", "4"], "--factor is an option of --objective doubled, and the objective is"),
        (["--objective", "doubled", "--label-smoothing", "0.1"], "of --objective cross_entropy"),
    ):
        assert train_here(*tiny, *given) == 2
        assert message in capsys.readouterr().err
