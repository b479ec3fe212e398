"""Provenance of a result: commit, machine and versions, so that it can be repeated."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def origin() -> dict[str, str]:
    """Return the commit of this code, where it can be known, the machine and the versions."""
    facts = {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
