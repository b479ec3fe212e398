"""Stress test of the caption service from outside.

Each scenario starts its own service, or uses a running one with --url and --pid, attacks it, and
prints a figure and a verdict for each requirement. The exit status is 1 if one is not met.

    python scripts/stress_serving.py --checkpoint runs/NAME/best --json stress.json
    python scripts/stress_serving.py soak --minutes 60 --rate 2 --checkpoint runs/NAME/best
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stress.attacks import raw_http
from stress.disconnects import hang_ups, slow
from stress.mutations import mutations
from stress.overload import overload
from stress.report import Report
from stress.shutdown import kill_decoder, kill_worker, reload, terminate
from stress.soak import soak
from stress.target import Target, found, machine, started

from captioner.errors import CaptionerError, OptionError
from captioner.files import write_json

Run = Callable[[Target, Report, argparse.Namespace], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    run: Run
    about: str
    workers: int = 1
    ends_the_service: bool = False
    reads_the_log: bool = False


SCENARIOS = {
    "overload": Scenario(overload, "ten times the capacity, for --seconds"),
    "hang-ups": Scenario(hang_ups, "1,000 clients that leave halfway"),
    "slow": Scenario(slow, "clients that send or read slowly, or without end"),
    "kill-decoder": Scenario(kill_decoder, "SIGKILL of decoding processes"),
    "kill-worker": Scenario(kill_worker, "SIGKILL of a serving process", workers=2),
    "terminate": Scenario(
        terminate, "SIGTERM under load", ends_the_service=True, reads_the_log=True
    ),
    "reload": Scenario(reload, "SIGHUP under load", reads_the_log=True),
    "mutations": Scenario(mutations, "--count mutated images, and bombs"),
    "raw-http": Scenario(raw_http, "malformed and malicious HTTP"),
    "soak": Scenario(soak, "mixed traffic for --minutes"),
}
SHORT = [name for name in SCENARIOS if name != "soak"]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="scenarios: " + "; ".join(f"{name}: {one.about}" for name, one in SCENARIOS.items()),
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="which ones (all but soak)"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="what the service serves")
    parser.add_argument("--url", help="a running service instead; needs --pid")
    parser.add_argument("--pid", type=int, help="its process, the supervisor with several workers")
    parser.add_argument("--workers", type=int, metavar="N", help="serving processes (1, some 2)")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="of overload, of hang-ups (120)"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak (60)")
    parser.add_argument(
        "--rate", type=float, default=2.0, help="requests per second of the soak (2)"
    )
    parser.add_argument("--count", type=int, default=3000, help="mutated images (3000)")
    parser.add_argument("--seed", type=int, default=0, help="of mutations and of the soak (0)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write mutations that fail here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios, and return the exit status."""
    given = build_parser().parse_args(argv)
    try:
        _check(given)
        reports = [_run(name, given) for name in given.scenarios or SHORT]
        if given.json is not None:
            every = [one.to_json() for one in reports]
            write_json(given.json, {"machine": machine(), "reports": every})
    except CaptionerError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    failed = [one.scenario for one in reports if not one.is_met]
    print(f"not met: {', '.join(failed)}" if failed else "all demands are met")
    return 1 if failed else 0


def _run(name: str, given: argparse.Namespace) -> Report:
    scenario = SCENARIOS[name]
    print(f"{name}: {scenario.about}", flush=True)
    report = Report(name)
    workers = given.workers or scenario.workers
    target: AbstractContextManager[Target] = (
        started(given.checkpoint, "--workers", str(workers))
        if given.url is None
        else nullcontext(found(given.url, given.pid))
    )
    with target as running:
        asyncio.run(scenario.run(running, report, given))  # type: ignore[arg-type]
    return report


def _check(given: argparse.Namespace) -> None:
    unknown = [name for name in given.scenarios if name not in SCENARIOS]
    if unknown:
        raise OptionError(
            f"there is no scenario {unknown[0]!r}; choose from {', '.join(SCENARIOS)}"
        )
    if (given.url is None) == (given.checkpoint is None):
        raise OptionError("give either --checkpoint, or --url with --pid")
    if given.url is not None and given.pid is None:
        raise OptionError("--url needs --pid, the process whose memory is looked at")
    for name in given.scenarios or SHORT:
        scenario: Any = SCENARIOS[name]
        if given.url is not None and (scenario.ends_the_service or scenario.reads_the_log):
            raise OptionError(f"{name} needs a service of its own; give --checkpoint")
    for name in ("seconds", "minutes", "rate", "count", "workers"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise OptionError(f"--{name} is {value:g}; give more than 0")


if __name__ == "__main__":
    sys.exit(main())
