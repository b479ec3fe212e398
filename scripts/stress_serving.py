"""Stress test of the caption service from outside.

Each scenario starts its own service, or uses a running one with --url and --pid, attacks it, and
prints a figure and a verdict for each requirement. The exit status is 1 if one is not met.

    python scripts/stress_serving.py --checkpoint runs/NAME/best --json stress.json
    python scripts/stress_serving.py soak --minutes 60 --rate 2 --checkpoint runs/NAME/best
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from stress import Report, StressOptions
from stress.attacks import raw_http
from stress.disconnects import hang_ups, slow
from stress.hostile_images import mutations
from stress.soak import soak
from stress.target import Target, service
from stress.under_load import kill_decoder, kill_worker, overload, reload, terminate

from captioner.errors import OptionError
from captioner.files import write_json
from captioner.flags import options_parser
from captioner.program import run_program

Run = Callable[[Target, Report, StressOptions], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Scenario:
    run: Run
    about: str
    workers: int = 1
    needs_its_own_service: bool = False  # it ends it, or reads its log


SCENARIOS = {
    "overload": Scenario(overload, "five and ten times the capacity, for --seconds"),
    "hang-ups": Scenario(hang_ups, "1,000 clients that leave halfway"),
    "slow": Scenario(slow, "clients that send or read slowly, or without end"),
    "kill-decoder": Scenario(kill_decoder, "SIGKILL of decoding processes"),
    "kill-worker": Scenario(kill_worker, "SIGKILL of a serving process", workers=2),
    "terminate": Scenario(terminate, "SIGTERM under load", needs_its_own_service=True),
    "reload": Scenario(reload, "SIGHUP under load", needs_its_own_service=True),
    "mutations": Scenario(mutations, "--count mutated images, and bombs"),
    "raw-http": Scenario(raw_http, "malformed and malicious HTTP"),
    "soak": Scenario(soak, "mixed traffic for --minutes"),
}
SHORT = [name for name in SCENARIOS if name != "soak"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios, and return the exit status."""
    return run_program("stress_serving.py", lambda: _stress(argv))


def _stress(argv: Sequence[str] | None) -> int:
    parser = options_parser(
        StressOptions,
        description=(__doc__ or "").splitlines()[0],
        epilog="scenarios: " + "; ".join(f"{name}: {one.about}" for name, one in SCENARIOS.items()),
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", default=SHORT, help="which ones (all but soak)"
    )
    given = vars(parser.parse_args(argv))
    scenarios, options = given.pop("scenarios"), StressOptions.from_json(given)
    _check(scenarios, options)
    reports = [_run(name, options) for name in scenarios]
    if options.json is not None:
        machine = {"cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0]}
        every = [one.to_json() for one in reports]
        write_json(options.json, {"machine": machine, "reports": every})
    failed = [one.scenario for one in reports if not one.is_met]
    print(f"not met: {', '.join(failed)}" if failed else "all demands are met")
    return 1 if failed else 0


def _run(name: str, options: StressOptions) -> Report:
    scenario = SCENARIOS[name]
    print(f"{name}: {scenario.about}", flush=True)
    report = Report(name)
    with service(options, options.workers or scenario.workers) as target:
        asyncio.run(scenario.run(target, report, options))
    return report


def _check(scenarios: Sequence[str], options: StressOptions) -> None:
    if unknown := [name for name in scenarios if name not in SCENARIOS]:
        raise OptionError(
            f"there is no scenario {unknown[0]!r}; choose from {', '.join(SCENARIOS)}"
        )
    if (options.url is None) == (options.checkpoint is None):
        raise OptionError("give either --checkpoint, or --url with --pid")
    if options.url is None:
        return
    if options.pid is None:
        raise OptionError("--url needs --pid, the process whose memory is looked at")
    for name in scenarios:
        if SCENARIOS[name].needs_its_own_service:
            raise OptionError(f"{name} needs a service of its own; give --checkpoint")


if __name__ == "__main__":
    sys.exit(main())
