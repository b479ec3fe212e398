"""What is pinned has no known weakness, as far as the database of weaknesses can be asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBE_SECONDS, AUDIT_SECONDS = 30.0, 200.0


def audit(requirements: Path, seconds: float) -> list[dict[str, Any]]:
    """Return what pip-audit says of each package; skip the test where it cannot say anything."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements)]
    command += ["--disable-pip", "--no-deps", "--format", "json"]
    command += ["--timeout", "5", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        pytest.skip("the database of known weaknesses does not answer in time")
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        pytest.skip(f"the database of known weaknesses cannot be asked: {reason[-200:]}")
    if all("skip_reason" in one for one in packages):
        pytest.skip("the database of known weaknesses cannot be reached")
    return packages


def test_nothing_pinned_has_a_known_weakness(tmp_path: Path) -> None:
    pytest.importorskip("pip_audit")
    probe = tmp_path / "one.txt"
    probe.write_text("packaging==24.0\n")
    audit(probe, PROBE_SECONDS)
    found = [
        f"{one['name']} {one['version']}: {weakness['id']}, mended in {weakness['fix_versions']}"
        for one in audit(ROOT / "requirements.lock", AUDIT_SECONDS)
        for weakness in one.get("vulns", [])
    ]
    assert found == []
