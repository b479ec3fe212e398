"""The images are built from what is there and tested, without a compiler, for a user of its own.

Nothing here needs Docker; `scripts/compose_smoke.sh` builds it.
"""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from captioner.checkpoint_folders import shipped_model
from serving.model import name_of

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
EXTRAS = {"runtime": ("serving", "tracing"), "training": ("serving", "tracing", "training")}
STAGES = (
    *("packages", "training-packages", "compiler", "decoding-kernels", "kernels"),
    *("model-sample", "model-shipped", "model", "training", "code", "final"),
)
OF_TRAINING = {"torch", "torchvision", "timm", "safetensors", "matplotlib", "pycocoevalcap", "onnx"}


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM (\S+)(?: AS ([\w-]+))?$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {
        name or "final": f"{base}\n{text}"
        for base, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def bases(stage: str) -> set[str]:
    """Return the stages that one is built on or copies from, itself among them."""
    found = {stage}
    text = stages()[stage]
    for name in (text.split(maxsplit=1)[0], *re.findall(r"--from=(\S+)", text)):
        if name in stages():
            found |= bases(name)
    return found


def test_the_images_have_no_compiler_no_root_and_no_address_of_an_index() -> None:
    assert tuple(stages()) == STAGES
    assert "ARG BASE=python:3.11-slim-bookworm\n" in DOCKERFILE
    assert "syntax=" not in DOCKERFILE
    assert "sha256" not in DOCKERFILE
    assert "://" not in DOCKERFILE
    assert [name for name, text in stages().items() if "g++" in text] == ["compiler"]
    for name in ("packages", "training-packages"):
        assert "--require-hashes" in stages()[name]
    for name, base in (("final", "packages\n"), ("training", "training-packages\n")):
        assert stages()[name].startswith(base)
        assert re.search(r"^USER 10001:10001$", stages()[name], re.MULTILINE)
    assert re.search(r'^CMD \["python", "-m", "serving"\]$', stages()["final"], re.MULTILINE)


def test_the_image_that_serves_needs_nothing_of_training_but_a_model() -> None:
    compiled = {"compiler", "decoding-kernels"}
    assert bases("final") == {"final", "packages", "code", "model", *compiled}
    assert bases("decoding-kernels") == {"packages", *compiled}
    assert "FROM model-${MODEL} AS model\n" in DOCKERFILE
    assert bases("model-shipped") == {"model-shipped"}
    assert not re.search(r"COPY.*(training|scripts)", stages()["final"] + stages()["code"])


def test_the_model_that_is_built_in_is_the_shipped_one_where_there_is_one() -> None:
    is_shipped = (ROOT / "captioner" / "model" / "deployable.json").is_file()
    default = "shipped" if is_shipped else "sample"
    assert f"ARG MODEL={default}\n" in DOCKERFILE
    assert f"MODEL: ${{MODEL:-{default}}}\n" in COMPOSE


def test_the_library_in_the_image_finds_the_model_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served,) = re.findall(r"CAPTIONER_CHECKPOINT=(\S+)", stages()["final"])
    assert f"COPY --from=model /model {served}\n" in stages()["final"]
    assert f"ln -s {served} captioner/model" in stages()["code"]
    folder = tmp_path / "checkpoints" / "default"
    folder.mkdir(parents=True)
    (folder / "deployable.json").write_text("{}")
    package = tmp_path / "app" / "captioner"
    package.mkdir(parents=True)
    (package / "model").symlink_to(folder)
    for module in ("captioner.checkpoint_folders", "serving.model"):
        monkeypatch.setattr(f"{module}.SHIPPED", package / "model")
    assert shipped_model() == package / "model"
    assert name_of(folder.resolve()) == "default"  # which may be of the sample


def test_the_command_is_in_both_images(tmp_path: Path) -> None:
    command = ROOT / "deploy" / "captioner"
    for name in ("final", "training"):
        assert "COPY --chmod=755 deploy/captioner /opt/python/bin/captioner\n" in stages()[name]
        assert "PYTHONPATH=/app" in stages()[name]
    done = subprocess.run(
        [sys.executable, command, "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith("captioner ")


def test_a_change_of_the_service_does_not_train_the_sample_anew() -> None:
    for name in bases("model-sample"):
        assert not re.search(r"COPY.*(serving|scripts|docs|pyproject)", stages()[name]), name


def test_what_is_copied_exists_and_is_let_through() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    for words in re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.*)$", DOCKERFILE, re.MULTILINE):
        for source in words.split()[:-1]:
            if source == "captioner/model":  # copied where it is there
                continue
            assert (ROOT / source).exists(), source
            assert any(f"{one}/".startswith((f"{source}/",)) or source.startswith(one)
                       for one in allowed), source  # fmt: skip


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_health_check_asks_whether_it_is_ready(status: int, expected: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (words,) = re.findall(r"HEALTHCHECK.*\\\n\s*CMD (\[.*\])", DOCKERFILE)
    _, flag, program = json.loads(words)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = program.replace("8000", str(server.server_port))
        done = subprocess.run([sys.executable, flag, program], capture_output=True, check=False)
        server.shutdown()
    assert (done.returncode, done.stderr) == (expected, b"")


def locked(path: Path) -> dict[str, str]:
    """Return the packages of a lock file, each with its text: version, markers and hashes."""
    blocks = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8"))
    return {
        re.split("[=<> ]", block)[0]: re.sub(r"\s*#.*", "", block).rstrip(" \\\n")
        for block in blocks
        if not block.startswith("#")
    }


@pytest.mark.parametrize("image", EXTRAS)
def test_an_image_has_the_tested_packages_and_no_others(image: str) -> None:
    ours = locked(ROOT / "deploy" / f"{image}.lock")
    tested = locked(ROOT / "requirements.lock")
    for name, block in ours.items():
        assert "--hash=sha256:" in block, name
        assert set(re.findall(r"sha256:\w+", block)) <= set(
            re.findall(r"sha256:\w+", tested[name])
        ), f"{name} is another in the image; run make lock"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in EXTRAS[image] for one in extras[name])]
    assert {Requirement(one).name for one in wanted} <= set(ours)
    assert not {"pytest", "ruff", "mypy", "playwright", "uv", "hypothesis", "openvino"} & set(ours)
    assert OF_TRAINING & set(ours) == (OF_TRAINING if image == "training" else set())


@pytest.mark.skipif(shutil.which("awk") is None, reason="awk is not installed")
def test_another_index_replaces_torch_and_what_only_it_needs() -> None:
    (program,) = re.findall(r"awk '([^']*)'", DOCKERFILE)
    lock = ROOT / "deploy" / "training.lock"
    text = subprocess.run(["awk", program, lock], capture_output=True, text=True, check=True).stdout
    whole = set(locked(lock))
    kept = {line.split("==")[0] for line in text.splitlines() if re.match(r"[a-z]", line)}
    assert {name for name in whole - kept if not name.startswith(("nvidia-", "cuda-"))} == {
        "torch",
        "torchvision",
        "triton",
    }
    assert not [name for name in kept if name.startswith(("nvidia", "cuda"))]
    assert text.count("--hash") > 3 * len(kept) // 2


def test_the_stage_that_compiles_has_every_module_it_imports() -> None:
    copied = re.search(r"^COPY (captioner/__init__\.py .*) captioner/$", DOCKERFILE, re.MULTILINE)
    assert copied is not None
    known = {"captioner/native", *copied[1].split()}
    modules = [ROOT / "captioner" / "native" / "build.py"]
    modules += [ROOT / name for name in copied[1].split()]
    modules.append(ROOT / "captioner" / "native" / "compilation.py")
    for module in modules:
        for name in re.findall(r"^from captioner\.(\w+)", module.read_text(), re.MULTILINE):
            assert {f"captioner/{name}", f"captioner/{name}.py"} & known, f"{module}: {name}"
