"""Processor cores that this process may use: its affinity, and its control group's quota."""

import os
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = _cpu_quota()
        return max(1, min(cores or 1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups here, or no quota: "max"
        return cores or 1


def _cpu_quota() -> tuple[str, str]:
    """Return the microseconds of computing in a period, and the period, as the kernel writes them.

    Without a quota the first is "max".
    """
    if (CONTROL_GROUP / "cpu.max").exists():
        quota, period = (CONTROL_GROUP / "cpu.max").read_text(encoding="ascii").split()
    else:
        quota = (CONTROL_GROUP / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
        period = (CONTROL_GROUP / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    return ("max" if quota == "-1" else quota), period
