"""Stress scenarios of `stress_serving.py`, one module for each kind of trouble; their options."""

from dataclasses import dataclass
from pathlib import Path

from captioner.options import ABOVE_ZERO, Options, option


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
