"""Stress scenarios of `stress_serving.py`, one module for each kind of trouble.

Here is what all of them take: the options, and the report of what they find.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captioner.options import ABOVE_ZERO, Options, option
from stress.client import Exchange, latency, statuses


@dataclass(frozen=True, kw_only=True)
class StressOptions(Options):
    checkpoint: Path | None = option(None, "what the service serves", metavar="DIR")
    url: str | None = option(None, "a running service instead; needs --pid", metavar="URL")
    pid: int | None = option(None, "its process, the supervisor with several workers")
    workers: int | None = option(None, "serving processes (1, some 2)", within=ABOVE_ZERO)
    seconds: float = option(120.0, "of overload, of hang-ups", within=ABOVE_ZERO)
    minutes: float = option(60.0, "of the soak", within=ABOVE_ZERO)
    rate: float = option(2.0, "requests per second of the soak", within=ABOVE_ZERO)
    count: int = option(3000, "mutated images", within=ABOVE_ZERO)
    seed: int = option(0, "of mutations and of the soak")
    keep: Path | None = option(None, "write mutations that fail here", metavar="DIR")
    json: Path | None = option(None, "write all figures here", metavar="FILE")


@dataclass
class Report:
    """The findings of one scenario: measured figures, and a verdict for each requirement.

    Everything is printed as soon as it is known, so a run that is cut short has still reported
    something.
    """

    scenario: str
    figures: dict[str, Any] = field(default_factory=dict)
    demands: list[dict[str, Any]] = field(default_factory=list)

    def figure(self, name: str, value: Any) -> None:
        """Keep and print a figure that nothing is demanded of."""
        self.figures[name] = value
        print(f"  {'':5} {name}: {_text(value)}", flush=True)

    def demand(self, name: str, value: Any, is_met: bool) -> None:
        """Keep and print a figure, and whether it is as `name` demands."""
        self.demands.append({"demand": name, "value": value, "is_met": is_met})
        print(f"  {'ok' if is_met else 'FAILS':5} {name}: {_text(value)}", flush=True)

    def answers(self, exchanges: Sequence[Exchange]) -> None:
        """Report what became of requests, and demand that none got the answer of another."""
        self.figure("answers", statuses(exchanges))
        self.figure("answered, seconds", latency(exchanges))
        foreign = sum(one.status == 200 and not one.is_its_own() for one in exchanges)
        self.demand("every answer belongs to its request and picture", foreign, not foreign)

    @property
    def is_met(self) -> bool:
        """Whether every demand is, and there was one."""
        return bool(self.demands) and all(one["is_met"] for one in self.demands)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_met": self.is_met}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(map(_text, value)) or "none"
    return str(value)
