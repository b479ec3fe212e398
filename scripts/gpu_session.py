"""Use ten minutes of a machine with one GPU: is Triton right, is it quick, does h-detach help?

Each step is a process of its own with its own limit, the most telling first; one that fails or
takes too long does not stop the rest. Figures are written as they come, to OUT/gpu_session.json and
.md. Runs of Figure 2 are ordinary ones, below OUT, and go on when the command is repeated. Needed
are PyTorch, Triton, timm and matplotlib, but no data.

    python scripts/gpu_session.py --out gpu
    python scripts/gpu_session.py --steps figure2 --minutes 60 --out gpu
    python scripts/gpu_session.py --try-out --out /tmp/gpu      # tiny, in Triton's interpreter
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from captioner.errors import OptionError
from captioner.files import read_json, write_atomically, write_json
from captioner.flags import options_parser
from captioner.options import ABOVE_ZERO, Options, option
from captioner.program import run_program, terminated_as_interrupted
from captioner.progress import duration

_SCRIPT = Path(__file__).resolve()
ROOT = _SCRIPT.parents[1]
NAME = "gpu_session"
TOLERANCE = 1e-4  # of the largest value or gradient, for float32 sums of hundreds of steps
_GRACE_SECONDS = 30.0  # to save, after a step was asked to stop


class Step(NamedTuple):
    title: str
    seconds: float  # its limit


STEPS = {
    "equal": Step("Triton against the loop in float64", 90.0),
    "speed": Step("A pass of the LSTM beside cuDNN's", 100.0),
    "seeds": Step("Several models at once", 60.0),
    "figure2": Step("Figure 2: copying at T = 300, nine runs side by side", 240.0),
    "captions": Step("Captions a second, beam 3", 60.0),
}


@dataclass(frozen=True, kw_only=True)
class SessionOptions(Options):
    out: Path = option(Path("runs", NAME), "folder of figures and runs", metavar="FOLDER")
    steps: tuple[str, ...] = option(tuple(STEPS), "what is done", choices=tuple(STEPS))
    minutes: float = option(9.5, "for everything", within=ABOVE_ZERO)
    try_out: bool = option(False, "try it without a GPU: tiny sizes, in Triton's interpreter")
    step: str | None = option(
        None, "do this step here, for a process of this program", choices=tuple(STEPS)
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(SessionOptions, description=(__doc__ or "").splitlines()[0])
    with terminated_as_interrupted():  # so that the step that runs is ended too
        return run_program(
            f"{NAME}.py", lambda: session(SessionOptions.from_json(vars(parser.parse_args(argv))))
        )


def session(options: SessionOptions) -> int:
    """Run the steps one after the other, and write what they found; 1 if one of them failed."""
    if options.step is not None:
        do_step(options, options.step)
        return 0
    if not options.try_out and not has_gpu():
        raise OptionError("PyTorch finds no GPU here; give --try-out for tiny sizes without one")
    outcomes = earlier_outcomes(options)
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    for name in options.steps:
        left = ends - time.monotonic()
        if left < 1:
            outcomes[name] = "no time was left"
        else:
            limit = left if name == options.steps[-1] else min(left, STEPS[name].seconds)
            outcomes[name] = run_step(options, name, limit)
        print(f"{name}: {outcomes[name]}", flush=True)
        write_report(options, outcomes)
    print(f"written: {options.out / NAME}.json and .md")
    return 0 if all(outcomes[name].startswith("done") for name in options.steps) else 1


def earlier_outcomes(options: SessionOptions) -> dict[str, str]:
    """Return how the steps of earlier calls ended.

    Raises:
        OptionError: they are of sizes that cannot stand beside those of this call.
    """
    path = options.out / f"{NAME}.json"
    if not path.exists():
        return {}
    earlier = read_json(path, "the earlier session", OptionError)
    if earlier.get("is_trial") != options.try_out:
        kind = "a session with --try-out" if earlier.get("is_trial") else "a real session"
        raise OptionError(f"--out {options.out} holds {kind}; give another folder")
    return dict(earlier.get("outcomes", {}))


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def run_step(options: SessionOptions, name: str, limit_seconds: float) -> str:
    """Return in words how the process of a step ended."""
    command = [sys.executable, str(_SCRIPT), "--step", name]
    command += ["--out", str(options.out), "--minutes", f"{limit_seconds / 60:.4f}"]
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if options.try_out:
        command.append("--try-out")
        environment["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    started = time.monotonic()
    with open(options.out / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            status = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            status = None
            _stop(process)
        except BaseException:
            _stop(process)
            raise
    took = duration(time.monotonic() - started)
    if status is None:
        return f"stopped after {took}, its limit"
    return f"done in {took}" if status == 0 else f"failed after {took}, see {name}.log"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a step and all its processes, which may save first."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        process.wait()
        return


def do_step(options: SessionOptions, name: str) -> None:
    """Do a step in this process; its figures are written one by one."""
    if name == "figure2":
        figure2(options)
        return
    import torch

    device = torch.device("cpu" if options.try_out else "cuda")
    found: list[dict[str, Any]] = []
    for figure in _FIGURES[name](device, options.try_out):
        found.append(figure)
        print(figure, flush=True)
        write_json(options.out / f"{name}.json", found)


def equal(device: Any, is_tiny: bool) -> Iterator[dict[str, Any]]:
    """Yield errors, without TF32, and fail at the end if one is too large."""
    from gpu.equality import CASES, OF_BENCHMARKS, errors, errors_of_several

    def figures() -> Iterator[dict[str, Any]]:
        yield from errors(CASES if is_tiny else (*CASES, *OF_BENCHMARKS), device)
        models, case = (2, CASES[1]) if is_tiny else (9, OF_BENCHMARKS[0])
        yield errors_of_several(models, case, device)

    worst = 0.0
    for figure in figures():
        worst = max(worst, figure["values"], figure["gradients"])
        yield figure
    if worst > TOLERANCE:
        raise OptionError(f"the largest error is {worst:.1e}, above {TOLERANCE:g}")


def speed(device: Any, is_tiny: bool) -> Iterable[dict[str, Any]]:
    from gpu.speed import SIZES, TINY, against_cudnn

    return against_cudnn(device, TINY if is_tiny else SIZES, rounds=1 if is_tiny else 20)


def seeds(device: Any, is_tiny: bool) -> Iterable[dict[str, Any]]:
    from gpu.speed import SEEDS, SIZES, TINY, seeds_at_once

    if is_tiny:
        return seeds_at_once(device, TINY[0], SEEDS[:2], rounds=1)
    return seeds_at_once(device, SIZES[0], SEEDS, rounds=10)


def captions(device: Any, is_tiny: bool) -> Iterable[dict[str, Any]]:
    from gpu.captions import captions_per_second

    batches, rounds = ((1, 2), 1) if is_tiny else ((1, 8, 64, 256), 5)
    return captions_per_second(device, batches, rounds, is_tiny=is_tiny)


_FIGURES: dict[str, Callable[[Any, bool], Iterable[dict[str, Any]]]] = {
    "equal": equal,
    "speed": speed,
    "seeds": seeds,
    "captions": captions,
}


def figure2(options: SessionOptions) -> None:
    """Become the reproduction of Figure 2, so that a signal to this process reaches it."""
    # What is left after loading and the last save: runs are cut short by the budget, then saved.
    budget = max(0.01, 0.8 * options.minutes - 0.5)
    words = ["figure2", "--only", "copying300", "--seeds", "3", "--out", str(options.out)]
    words += ["--budget", f"{budget:.3f}", "--jobs", "9"]
    if options.try_out:
        words = ["figure2_small", "--seeds", "1", "--out", str(options.out), "--device", "cpu"]
        words += ["--budget", "0.01", "--jobs", "1"]
    script = ROOT / "training" / "reproduce.py"
    os.execv(sys.executable, [sys.executable, str(script), *words])


def write_report(options: SessionOptions, outcomes: dict[str, str]) -> None:
    """Write what all steps have found so far, also in earlier calls."""
    from training.run_folder import origin

    figures = {}
    for name in STEPS:
        path = options.out / f"{name}.json"
        if name != "figure2" and path.exists():
            figures[name] = read_json(path, "a step's figures", OptionError)
    facts = {"command": " ".join(["python", f"scripts/{NAME}.py", *sys.argv[1:]]), **origin()}
    lines = ["# A session on a GPU", ""]
    if options.try_out:
        lines += ["**Tried out without a GPU: sizes are tiny and times mean nothing.**", ""]
    for name, step in STEPS.items():
        if name not in outcomes and name not in figures:
            continue
        lines += [f"## {step.title}", "", outcomes.get(name, "from an earlier call"), ""]
        if name == "figure2":
            page = "figure2_small.md" if options.try_out else "figure2.md"
            if (options.out / page).exists():
                lines += [f"See [{page}]({page}).", ""]
            continue
        lines += [*_table(figures.get(name, [])), ""]
    lines += [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    write_atomically(options.out / f"{NAME}.md", "\n".join(lines).encode())
    write_json(
        options.out / f"{NAME}.json",
        {"origin": facts, "is_trial": options.try_out, "outcomes": outcomes, "figures": figures},
    )


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Nothing was measured."]
    names = list(rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---" * len(names) + "|")
    for row in rows:
        cells = (row.get(name) for name in names)
        shown = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
