"""Set-up of `.venv`: exactly the packages of `requirements.lock`, and the project itself.

Needs only a plain Python 3.11 or later. It first downloads uv, which installs the rest, and checks
its hash like all others. It returns at once when nothing has changed. An interrupted installation
is started over, because half-written packages look complete.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
READY = ENVIRONMENT / ".ready.json"
UNFINISHED = ENVIRONMENT / ".unfinished"

# What pip calls it -> what uv reads, so that a mirror configured for pip serves both.
PIP_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def main() -> int:
    with open(LOCK, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once: the second waits, then has nothing
        wanted = {
            "root": str(ROOT),
            "requirements": hashlib.sha256(lock.read()).hexdigest(),
            "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        }
        installed = read_stamp()
        if installed == wanted and works():
            return 0
        try:
            moved = installed.get("root", str(ROOT)) != str(ROOT)
            if moved or UNFINISHED.exists() or not works():
                make_empty_environment()
            install(wanted)
        except KeyboardInterrupt:
            print("\nset-up interrupted; `make setup` starts it over", file=sys.stderr)
            return 130
        except subprocess.CalledProcessError:
            print(
                "set-up failed, see above; check the network and the free disk space (a mirror "
                "configured for pip is used too), then run `make setup` again",
                file=sys.stderr,
            )
            return 1
    return 0


def read_stamp() -> dict[str, str]:
    try:
        stamp = json.loads(READY.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def works() -> bool:
    """Say whether `.venv` is there with a Python that is new enough and has pip."""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([PYTHON, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def make_empty_environment() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        raise SystemExit(
            f"{sys.executable} cannot make environments: its module ensurepip is missing; install "
            "it (on Debian and Ubuntu the package python3-venv), or name another Python: "
            "make setup PYTHON=python3.12"
        )
    if ENVIRONMENT.is_symlink() or ENVIRONMENT.is_file():
        raise SystemExit(
            f"{ENVIRONMENT} is no folder of this checkout; remove it, then run `make setup` again"
        )
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    ENVIRONMENT.mkdir()
    UNFINISHED.touch()
    run([sys.executable, "-m", "venv", ENVIRONMENT])


def install(wanted: Mapping[str, str]) -> None:
    free_gigabytes = shutil.disk_usage(ROOT).free / 1e9
    print(
        "Installing the pinned packages into .venv: up to 3 GB to download and 6 GB on disk, most "
        f"of it torch with its CUDA libraries ({free_gigabytes:.0f} GB are free here)",
        flush=True,
    )
    UNFINISHED.touch()
    READY.unlink(missing_ok=True)
    install_uv()
    uv: list[str | Path] = [PYTHON, "-m", "uv", "pip"]
    environment = {**settings_of_pip(), **os.environ, "VIRTUAL_ENV": str(ENVIRONMENT)}
    # Compiled once here: where Python may not keep what it compiles, each program would do it anew.
    run([*uv, "sync", "--require-hashes", "--compile-bytecode", LOCK], environment)
    flags = "--quiet --no-deps --no-build-isolation --editable"
    run([*uv, "install", *flags.split(), ROOT], environment)
    READY.write_text(json.dumps(wanted, indent=1) + "\n")
    UNFINISHED.unlink()


def install_uv() -> None:
    """Install the uv that the lock pins, with pip, as nothing else is there yet."""
    lines = LOCK.read_text().splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith("uv=="))
    end = next(n for n in range(start, len(lines)) if not lines[n].rstrip().endswith("\\"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pin:
        pin.writelines(lines[start : end + 1])
        pin.flush()
        flags = "--quiet --disable-pip-version-check --no-deps --require-hashes"
        run([PYTHON, "-m", "pip", "install", *flags.split(), "-r", pin.name])


def settings_of_pip() -> dict[str, str]:
    """Return uv's settings for the index that pip is told to use, empty where it is the default.

    All indexes are asked for every package: the hashes decide what may come from any of them.
    """
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings = {}
    for line in listed.stdout.splitlines():  # such as: global.index-url='…'
        key, _, value = line.partition("=")
        name = PIP_SETTINGS.get(key.strip(":").rpartition(".")[2])
        if name is not None:
            separator = "," if name == "UV_FIND_LINKS" else " "
            settings[name] = separator.join(value.strip("'\"").split())
    if "UV_INDEX" in settings:
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return settings


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
