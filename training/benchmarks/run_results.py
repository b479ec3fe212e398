"""Results of a benchmark run, read from its folder while it trains, or from a page's figures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from captioner.errors import OptionError, TrainingError
from captioner.files import read_json
from training.run_folder import RunFolder, read_metrics
from training.run_state import read_fingerprint

_DELAY = "delay_"  # begins the names of the tests of transfer copying


@dataclass(frozen=True)
class RunResult:
    """Results of a run so far: accuracies in per cent, or perplexities."""

    epochs: float = 0.0  # done; the last one may be cut short
    seconds: float = 0.0  # of training and validation
    curve: tuple[tuple[float, float], ...] = ()  # epochs, and the score of the validation then
    validation: float | None = None  # the best
    tested_epochs: float = 0.0  # when the tests were made; the run may have gone on since
    test: float | None = None
    transfer: dict[int, float] = field(default_factory=dict)  # by delay
    commits: tuple[str, ...] = ()  # of the code that trained it
    data: Mapping[str, Any] | None = None  # by what the run knows them; None of earlier files

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the results that `asdict` made of them, and that went through JSON.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            epochs=float(stored["epochs"]),
            seconds=float(stored["seconds"]),
            curve=tuple((float(epoch), float(score)) for epoch, score in stored["curve"]),
            validation=stored["validation"],
            tested_epochs=float(stored.get("tested_epochs", 0.0)),  # earlier files lack it
            test=stored["test"],
            transfer={int(delay): float(score) for delay, score in stored["transfer"].items()},
            commits=tuple(map(str, stored["commits"])),
            data=None if stored.get("data") is None else dict(stored["data"]),
        )

    def is_complete(self, epochs: int, delays: tuple[int, ...]) -> bool:
        """Return whether the run trained for so long, and was tested after that."""
        return self.tested_epochs >= epochs and set(delays) <= set(self.transfer)


def is_better_low(score: str) -> bool:
    return score == "perplexity"


def read_figures(paths: Iterable[Path]) -> dict[str, RunResult]:
    """Return the results of all runs in the JSON files that pages were written with, by name.

    Of a run in several files the longer counts, and of the same run what each tested.

    Raises:
        OptionError: a file is missing, or none of `reproduce.py`.
    """
    found: dict[str, RunResult] = {}
    for path in paths:
        stored = read_json(path, "the file of --figures", OptionError)
        try:
            runs = {name: RunResult.from_json(one) for name, one in stored["runs"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise OptionError(
                f"{path} holds no figures of benchmark runs; give a NAME.json of reproduce.py"
            ) from None
        for name, one in runs.items():
            other = found.get(name, RunResult())
            if other.curve == one.curve:
                found[name] = replace(
                    one,
                    test=other.test if one.test is None else one.test,
                    transfer={**other.transfer, **one.transfer},
                )
            elif one.epochs > other.epochs:
                found[name] = one
    return found


def read_result(path: Path, score: str = "accuracy") -> RunResult:
    """Return the results of the run in this folder, which need not exist.

    `score` is the figure by which its task is measured.

    Raises:
        TrainingError: its result or configuration is damaged.
    """
    folder = RunFolder(path)
    lines = read_metrics(folder)
    curve = tuple((line["epoch"], line[score]) for line in lines if line["kind"] == "validation")
    best = min if is_better_low(score) else max
    timed = [line for line in lines if "seconds" in line]
    result: dict[str, Any] = {}
    if folder.result.exists():
        result = read_json(folder.result, "the run's result", TrainingError)
    tests = result.get("tests", {})
    origins = folder.read_description().get("origins", []) if folder.config.exists() else []
    return RunResult(
        epochs=max([result.get("epochs", 0.0), *(line["epoch"] for line in timed)]),
        seconds=max([result.get("seconds", 0.0), *(line["seconds"] for line in timed)]),
        curve=curve,
        validation=best((value for _, value in curve), default=None),
        tested_epochs=result.get("epochs", 0.0),
        test=tests.get("test", {}).get(score),
        transfer={
            int(name.removeprefix(_DELAY)): figures["accuracy"]
            for name, figures in tests.items()
            if name.startswith(_DELAY)
        },
        commits=tuple(dict.fromkeys(origin["commit"] for origin in origins)),
        data=read_fingerprint(folder.last),
    )
