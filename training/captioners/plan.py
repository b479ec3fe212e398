"""Plan of the runs of Table 3: each is trained, then its best model captions and is scored."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.captioners.results import CaptionerResult, read_result
from training.captioners.runs import CaptionerRun, options_for
from training.schedule import Plan

_TRAINING = Path(__file__).resolve().parents[1]
TRAIN, SCORE = "train", "score"


@dataclass(frozen=True, kw_only=True)
class CaptionerPlan(Plan[CaptionerRun]):
    epochs_of_all: int
    split: str  # of the images that the best model captions in the end
    beam_size: int
    training: Sequence[str] = ()  # options of every training
    machine: Sequence[str] = ()  # of every process
    runs: Sequence[CaptionerRun] = field(default=(), repr=False)  # to tell how long one takes

    def asked_epochs(self, run: CaptionerRun) -> int:  # noqa: ARG002
        return self.epochs_of_all

    def result(self, run: CaptionerRun) -> CaptionerResult:
        return read_result(self.folder(run), self.scores(run))

    def epochs(self, run: CaptionerRun) -> float:
        return self.result(run).epochs

    def seconds(self, run: CaptionerRun) -> float:
        return self.result(run).seconds

    def captions(self, run: CaptionerRun) -> Path:
        """Return where the captions of the best model are, with their references."""
        return self.folder(run) / f"captions_{self.split}_beam{self.beam_size}.json"

    def scores(self, run: CaptionerRun) -> Path:
        return self.folder(run) / f"scores_{self.split}_beam{self.beam_size}.json"

    def stage(self, run: CaptionerRun) -> str:
        if self.epochs(run) < self.epochs_of_all:
            return TRAIN
        is_scored = self.scores(run).exists() and self.captions(run).exists()
        return "" if is_scored else SCORE

    def expected_seconds(self, run: CaptionerRun) -> float | None:
        """Return how long the rest takes at the pace of its decoder so far, all runs together."""
        known = [self.result(one) for one in self.runs if one.decoder == run.decoder]
        done = sum(one.epochs for one in known)
        left = max(0.0, self.epochs_of_all - self.epochs(run))
        return left * sum(one.seconds for one in known) / done if done else None

    def command(self, run: CaptionerRun, share_seconds: float | None) -> list[str]:
        assert share_seconds is None, "a captioner's learning rate follows the whole of its epochs"
        folder = self.folder(run)
        if self.stage(run) == SCORE:
            script, options = "evaluate_coco.py", ["--checkpoint", str(folder / "best")]
            options += ["--split", self.split, "--beam-size", str(self.beam_size)]
            options += ["--captions-out", str(self.captions(run)), "--out", str(self.scores(run))]
            options += self._feature_store()
        elif (folder / "last").exists() or (folder / ".last.previous").exists():
            script, options = "train_coco.py", ["--resume", str(folder)]
            options += ["--epochs", str(self.epochs_of_all)]
        else:
            if folder.exists():  # killed before anything was saved
                shutil.rmtree(folder)
            script = "train_coco.py"
            options = ["--out", str(folder), *options_for(run.decoder, self.training)]
            options += run.arguments
            options += ["--epochs", str(self.epochs_of_all)]
        return [sys.executable, str(_TRAINING / script), *options, *self.machine]

    def _feature_store(self) -> list[str]:
        """Return the option of the trainings that says where features are stored, if it is one."""
        for number, word in enumerate(self.training):
            if word == "--feature-store":
                return [word, self.training[number + 1]]
            if word.startswith("--feature-store="):
                return [word]
        return []
