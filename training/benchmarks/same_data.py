"""Check that runs which count as done were trained on the data that a command names.

A run's name tells its options and not its data, so the runs of another text or of other digits
would be taken for those that are asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from captioner.errors import OptionError
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.copying import CopyingConfig, CopyingTask
from training.benchmarks.pixels import PixelsConfig, PixelsTask
from training.benchmarks.reproductions import Run, Setting
from training.benchmarks.schedule import BenchmarkPlan
from training.benchmarks.task import Task
from training.benchmarks.text import TextConfig, TextTask

_TASKS: Mapping[str, tuple[type[BenchmarkConfig], type[Task]]] = {
    "copying": (CopyingConfig, CopyingTask),
    "sequential_mnist": (PixelsConfig, PixelsTask),
    "word_language_model": (TextConfig, TextTask),
}


def check_same_data(
    plan: BenchmarkPlan, runs: Sequence[Run], named: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise OptionError if a run that is there, or in figures, is of other data than those named.

    `named` are by script the options that name its data; a script that is not in it is not checked.

    Raises:
        DataError: the data are missing or wrong.
    """
    wanted: dict[Setting, Mapping[str, Any]] = {}
    for run in runs:
        setting = run.setting
        there = plan.result(run).data
        if not there or setting.script not in named:
            continue
        if setting not in wanted:
            wanted[setting] = _fingerprint(setting, named[setting.script])
        if there != wanted[setting]:
            folder = plan.folder(run)
            where = folder if folder.exists() else f"{run.name} in --figures"
            given = " ".join(str(value) for value in named[setting.script].values())
            raise OptionError(
                f"{where} was trained on other data than {given}; give the same as before, or "
                "another --out"
            )


def _fingerprint(setting: Setting, named: Mapping[str, Any]) -> Mapping[str, Any]:
    config, task = _TASKS[setting.script]
    of_setting = config.from_json({**dict(setting.options), **named})
    made: Any = task
    fingerprint: Mapping[str, Any] = made(of_setting, torch.device("cpu")).fingerprint()
    return fingerprint
