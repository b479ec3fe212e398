"""The set-up script: what it decides, and what it says when it cannot go on."""

import hashlib
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, looking at a made-up project in which nothing is ever installed."""
    path = ROOT / "scripts" / "make_environment.py"
    spec = importlib.util.spec_from_file_location("make_environment", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = tmp_path / ".venv"
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(module, "ENVIRONMENT", environment)
    monkeypatch.setattr(module, "PYTHON", environment / "bin" / "python")
    monkeypatch.setattr(module, "READY", environment / ".ready.json")
    monkeypatch.setattr(module, "UNFINISHED", environment / ".unfinished")
    (tmp_path / "requirements.lock").write_text("tqdm==1 \\\n    --hash=sha256:00\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return module


@pytest.fixture
def installs(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the script did, in words, instead of doing it."""
    done: list[str] = []

    def install(wanted: dict[str, str]) -> None:
        done.append("install")
        script.READY.write_text(json.dumps(wanted))
        script.UNFINISHED.unlink(missing_ok=True)

    def make_empty() -> None:
        done.append("empty")
        script.ENVIRONMENT.mkdir(exist_ok=True)

    monkeypatch.setattr(script, "install", install)
    monkeypatch.setattr(script, "make_empty_environment", make_empty)
    monkeypatch.setattr(script, "works", lambda: script.ENVIRONMENT.exists())
    return done


def test_the_second_call_does_nothing(script: ModuleType, installs: list[str]) -> None:
    assert script.main() == 0
    assert script.main() == 0
    assert installs == ["empty", "install"]


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_pin_or_range_is_installed_into_what_is_there(
    script: ModuleType, installs: list[str], name: str
) -> None:
    script.main()
    with open(script.ROOT / name, "a") as file:
        file.write("# changed\n")
    script.main()
    assert installs == ["empty", "install", "install"]


def test_an_interrupted_installation_is_started_over(
    script: ModuleType, installs: list[str]
) -> None:
    script.main()
    script.READY.unlink()
    script.UNFINISHED.touch()
    script.main()
    assert installs == ["empty", "install", "empty", "install"]


def test_a_moved_project_gets_a_new_environment(script: ModuleType, installs: list[str]) -> None:
    script.main()
    stamp = json.loads(script.READY.read_text())
    script.READY.write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    script.main()
    assert installs == ["empty", "install", "empty", "install"]


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [(KeyboardInterrupt(), 130, "starts it over"), (None, 1, "check the network")],
)
def test_what_goes_wrong_is_said_in_one_line(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    status: int,
    word: str,
) -> None:
    def fail() -> None:
        raise error or subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(script, "make_empty_environment", fail)
    assert script.main() == status
    assert word in capsys.readouterr().err


def test_a_python_without_ensurepip_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"ensurepip is missing.*python3-venv"):
        script.make_empty_environment()
    assert not script.ENVIRONMENT.exists()


def test_a_mirror_configured_for_pip_serves_uv_too(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = (
        ":env:.cert='/etc/ca.pem'\n"
        "global.index-url='https://mirror.example/simple'\n"
        "global.extra-index-url='file:///one file:///two'\n"
        "global.timeout='60'\n"
    )
    answer = subprocess.CompletedProcess([], 0, stdout=listed)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: answer)
    assert script.settings_of_pip() == {
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "file:///one file:///two",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_uv_is_installed_at_the_pin_of_the_lock(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.LOCK.write_text(
        "uvloop==1 \\\n    --hash=sha256:11\n"
        "uv==0.1 \\\n    --hash=sha256:22 \\\n    --hash=sha256:33\n    # via captioner\n"
        "wheel==1 \\\n    --hash=sha256:44\n"
    )
    pins = []
    monkeypatch.setattr(script, "run", lambda command: pins.append(Path(command[-1]).read_text()))
    script.install_uv()
    assert pins == ["uv==0.1 \\\n    --hash=sha256:22 \\\n    --hash=sha256:33\n"]


def test_the_lock_pins_everything_by_hash_and_names_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^-|^ *--(?!hash=sha256:[0-9a-f]{64})", text, re.MULTILINE)
    blocks = re.split(r"\n(?=[a-z])", text)
    assert all(re.match(r"[a-z0-9-]+(\[.*\])?==\S+", block) for block in blocks)
    assert all("--hash=sha256:" in block for block in blocks)
    for needed in ("torch", "torchvision", "setuptools", "uv", "fastapi", "pytest"):
        assert f"\n{needed}==" in text


def test_the_stamp_is_of_the_content_of_the_lock(script: ModuleType, installs: list[str]) -> None:
    script.main()
    content = script.LOCK.read_bytes()
    assert script.read_stamp()["requirements"] == hashlib.sha256(content).hexdigest()
    assert installs


def test_another_checkouts_environment_is_left_alone(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").touch()
    script.ENVIRONMENT.symlink_to(tmp_path / "other")
    with pytest.raises(SystemExit, match=r"\.venv is no folder of this checkout; remove it"):
        script.make_empty_environment()
    assert (tmp_path / "other" / "kept").exists()
