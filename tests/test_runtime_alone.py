"""The runtime without torch: what the wheel declares, installed alone into an empty environment.

The environment holds the wheel of this project and the distributions that it names as dependencies
of the runtime and of the extra `serving`, with theirs, and nothing else. They are linked from the
environment of the tests, so no network is needed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_string
from importlib.metadata import Distribution, distribution, version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import captioner
from captioner.checkpoint import save_checkpoint
from captioner.cli import main
from captioner.decoders import build_decoder, decoder_options
from captioner.encoder.config import EncoderConfig
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("captioner", "serving", "training")
TRAINING = ("torch", "torchvision", "timm", "safetensors", "onnx", "matplotlib", "pycocoevalcap")
WORDS = ("a", "dog", "cat", "runs", "sits", "grass")


@dataclass(frozen=True)
class Environment:
    """An environment with the runtime alone."""

    folder: Path
    names: frozenset[str]  # of the distributions in it

    def run(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, which must end with the status `code`."""
        program, *others = map(str, words)
        done = subprocess.run(
            [self.folder / "bin" / program, *others],
            cwd=self.folder,  # the project itself is not to be found from there
            env={"PATH": os.defpath, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        return done


def wanted_of(requirements: list[str], extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield what of a distribution's requirements holds here with these extras."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def closure(requirements: list[str], extras: frozenset[str]) -> dict[str, Distribution]:
    """Return all distributions that are needed, by name; they are installed here."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(wanted_of(requirements, extras))
    while waiting:
        requirement = waiting.pop()
        key = (requirement.name.lower(), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        needed = found[key[0]] = distribution(requirement.name)
        assert requirement.specifier.contains(needed.version, prereleases=True), requirement
        waiting += wanted_of(needed.requires or [], key[1])
    return found


def link(needed: Distribution, site: Path) -> None:
    """Link every file of a distribution, with its compiled twin, into another environment."""
    for name in needed.files or []:
        if ".." in name.parts:  # a program in bin/
            continue
        source = Path(str(needed.locate_file(name)))
        compiled = (
            source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        )
        for path in (source, compiled) if source.suffix == ".py" else (source,):
            target = site / path.relative_to(Path(str(needed.locate_file(""))))
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    return source / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--quiet"]
    subprocess.run([*install, "--python", folder / "bin" / "python", wheel], check=True)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
    needed = closure(metadata.get_all("Requires-Dist") or [], frozenset({"serving"}))
    for one in needed.values():
        link(one, site)
    return Environment(folder, frozenset(needed))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    generator = torch.Generator().manual_seed(0)
    encoder = TimmEncoder.create(
        EncoderConfig(name="resnet10t", weights="none", grid=2, image_size=64), generator
    )
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *WORDS))
    sizes = {"hidden_size": 16, "embedding_size": 8, "attention_size": 8}
    decoder = build_decoder(
        "soft_attention",
        decoder_options("soft_attention", sizes),
        vocabulary_size=len(vocabulary),
        feature_size=encoder.feature_size,
        generator=generator,
    )
    with torch.no_grad():
        decoder.output.weight.mul_(20)
    save_checkpoint(
        folder / "best", encoder=encoder, decoder=decoder, vocabulary=vocabulary, summary={}
    )
    return folder / "best"


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    def version_of(name: str) -> str:
        assert name != "captioner", "an image exports without installing it"
        return version(name)

    folder = checkpoint.parent / "exported"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioner.export.exporter.version", version_of)
        assert (
            main(["export", str(checkpoint), "--out", str(folder), "--precision", "float32"]) == 0
        )
    return folder


def test_nothing_of_training_is_among_what_the_runtime_needs(environment: Environment) -> None:
    assert not environment.names & set(TRAINING)
    tried = "; ".join(
        f"print({name!r}, importlib.util.find_spec({name!r}) is None)" for name in TRAINING
    )
    said = environment.run("python", "-c", f"import importlib.util; {tried}").stdout
    assert re.findall(r"(\w+) True", said) == list(TRAINING)
    assert (
        "No module named 'torch'" in environment.run("python", "-c", "import torch", code=1).stderr
    )


LIBRARY = """
import json, sys
import captioner
found = captioner.load(sys.argv[1]).caption(sys.argv[2:])
print(json.dumps([[one.text, one.log_prob] for one in found]))
"""


def test_the_library_and_the_command_caption_as_torch_does(
    environment: Environment, checkpoint: Path, exported: Path, photographs: list[Path]
) -> None:
    expected = captioner.load(checkpoint).caption(photographs)
    printed = environment.run("python", "-c", LIBRARY, exported, *photographs).stdout
    for (text, log_prob), caption in zip(json.loads(printed), expected, strict=True):
        assert text == caption.text
        assert log_prob == pytest.approx(caption.log_prob, abs=1e-3)
    picture = environment.folder / "attention.png"
    words = ["--checkpoint", exported, "--attention", picture]
    done = environment.run("captioner", "caption", photographs[0], *words)
    assert done.stdout == f"{photographs[0]}\t{expected[0].text}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


SERVED = """
import re, subprocess, sys, threading
from captioner.client import CaptionClient, Patience

words = ["captioner", "serve", "--checkpoint", sys.argv[1], "--port", "0"]
service = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True)
said = []
try:
    for line in service.stdout:
        said.append(line)
        if found := re.search(r"http://127\\.0\\.0\\.1:\\d+", line):
            break
    else:
        raise SystemExit(f"it ended with {service.wait()}: {said}")
    threading.Thread(target=service.stdout.read, daemon=True).start()
    with CaptionClient(found[0], patience=Patience(attempts=100)) as client:
        for path in sys.argv[2:]:
            print(client.caption(path).captions[0].text)
finally:
    service.terminate()
    status = service.wait(30)
raise SystemExit(status)
"""


def test_the_service_and_the_client_caption_as_torch_does(
    environment: Environment, checkpoint: Path, exported: Path, photographs: list[Path]
) -> None:
    printed = environment.run("python", "-c", SERVED, exported, *photographs).stdout
    expected = captioner.load(checkpoint).caption(photographs)
    assert printed.splitlines() == [caption.text for caption in expected]


LACKING = """
import contextlib, io, json, sys
from captioner.cli import main
said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as error:
        status = main(words)
    said.append([status, error.getvalue()])
print(json.dumps(said))
"""


def test_what_needs_an_extra_says_so_in_a_line(
    environment: Environment, checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.json"
    pairs.write_text('[{"image_name": "a", "captions": ["a dog"], "prediction": "a cat"}]')
    commands = [
        ["caption", str(photographs[0]), "--checkpoint", str(checkpoint)],
        ["export", str(checkpoint), "--out", str(tmp_path / "exported")],
        ["score", str(pairs)],
        ["train", "--data", "shapes"],
    ]
    printed = environment.run("python", "-c", LACKING, json.dumps(commands)).stdout
    for words, (status, said) in zip(commands, json.loads(printed), strict=True):
        assert status == 2, words
        assert re.fullmatch(
            r"error: .* needs the extra `training` of captioner \(\w+ is not installed here\); "
            r"run: pip install 'captioner\[training\]'\n",
            said,
        ), said
