"""Processor cores that this process may use: its affinity, and its control group's quota."""

import os
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    files = [CONTROL_GROUP / "cpu.max"]  # microseconds of computing in a period, and the period
    if not files[0].exists():
        files = [CONTROL_GROUP / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        quota, period = map(int, " ".join(one.read_text(encoding="ascii") for one in files).split())
    except (OSError, ValueError):  # no control groups here, or no quota: "max"
        return cores or 1
    return cores or 1 if quota < 0 else max(1, min(cores or 1, round(quota / period)))
