"""The shape of the project: who may import whom, what an import costs, which versions are in."""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("captioner", "training", "serving")
HEAVY = ("torch", "torchvision", "timm", "matplotlib", "tensorboard", "fastapi", "pycocoevalcap")

# What torch comes with: training, checkpoints, exporting. All else of the library, and the service,
# does without what only the extra `training` brings.
OF_TRAINING = (
    *(
        "captioner.attributes",
        "captioner.checkpoint",
        "captioner.devices",
        "captioner.tensor_files",
    ),
    *("captioner.decoders", "captioner.hdetach", "captioner.lstm", "captioner.native"),
    *("captioner.encoder.encoders", "captioner.encoder.interface", "captioner.encoder.store"),
    "captioner.encoder.joint_store",
    *("captioner.encoder.store_writer", "captioner.encoder.timm_encoder"),
    *("captioner.encoder.weights", "captioner.engines.torch_engine", "captioner.export"),
    "captioner.engines.openvino_engine",
    # Ray brings a package that training brings too.
    *("captioner.batch_inference.ray_data", "serving.ray_app", "serving.ray_back_end"),
)

# Where the modules of a part live -> what none of them may import, at the top or in a function.
FORBIDDEN = {
    "captioner": ("training", "serving", "fastapi", "starlette", "uvicorn"),
    "training": ("serving", "fastapi", "starlette", "uvicorn"),
    "serving": ("training", "captioner.commands"),
    "serving/middleware": ("serving.app", "serving.routes", "serving.service"),
    "serving/batching.py": ("serving.routes", "serving.service", "starlette", "fastapi"),
    "captioner/sandbox": ("serving.routes", "serving.service", "starlette", "fastapi"),
    "captioner/decoders": (
        "captioner.data",
        "captioner.encoder",
        "captioner.metrics",
        "captioner.search",
        "captioner.captioner",
    ),
    "captioner/lstm": (
        "captioner.data",
        "captioner.decoders",
        "captioner.encoder",
        "captioner.metrics",
        "captioner.search",
    ),
    "captioner/options.py": ("captioner.data", "captioner.decoders", "captioner.encoder"),
    "captioner/features.py": (
        "captioner.data",
        "captioner.decoders",
        "captioner.encoder",
        "captioner.search",
    ),
    "captioner/engines": ("captioner.captioner", "captioner.data", "captioner.metrics"),
    "captioner/captioner.py": ("captioner.checkpoint", "captioner.decoders", "captioner.encoder"),
    "captioner/search.py": ("captioner.data", "captioner.metrics", "captioner.encoder"),
    "captioner/metrics": ("captioner.decoders", "captioner.encoder", "captioner.search"),
}

FLOORS = {
    "pillow": "13.0.0",  # before it, a crafted JPEG writes past the end of a buffer
    "python-multipart": "0.0.32",
    "starlette": "1.6.0",
    "torch": "2.10",
}


def modules_of(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of all that a module imports, wherever in it the import stands."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("part", FORBIDDEN)
def test_arrows_point_one_way(part: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(part)
        for name in imports(path)
        if any(is_within(name, other) for other in FORBIDDEN[part])
    ]
    assert wrong == []


def test_the_walk_sees_every_form_of_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "captioner" / "decoders" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import training.config as c\n"
        "def f():\n"
        "    from captioner import metrics\n"
        "    from ..data.shapes import generate\n"
        "    from . import batch\n"
    )
    assert {
        "training.config",
        "captioner.metrics",
        "captioner.data.shapes",
        "captioner.decoders.batch",
    } <= set(imports(path))


def test_timm_is_imported_in_one_module() -> None:
    users = {
        str(path.relative_to(ROOT))
        for part in (*PACKAGES, "scripts")
        for path in modules_of(part)
        if any(is_within(name, "timm") for name in imports(path))
    }
    assert users == {"captioner/encoder/timm_encoder.py"}


def test_only_the_table_of_encoders_knows_timms() -> None:
    users = {
        str(path.relative_to(ROOT))
        for part in (*PACKAGES, "scripts")
        for path in modules_of(part)
        if any(is_within(name, "captioner.encoder.timm_encoder") for name in imports(path))
    }
    assert users == {"captioner/encoder/encoders.py"}


def test_no_module_asks_for_a_decoder_by_name() -> None:
    from captioner.decoders import DECODERS

    asking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for part in PACKAGES
        for path in modules_of(part)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(side, ast.Constant) and side.value in DECODERS
            for side in (node.left, *node.comparators)
        )
    ]
    assert asking == []


def test_the_library_prints_nothing() -> None:
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules_of("captioner")
        if path.name not in ("cli.py", "program.py", "progress.py", "build.py")  # of commands
        and path.parent.name != "commands"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert printing == []


def run_python(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_the_library_is_cheap() -> None:
    code = f"import captioner, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


WALK = """
import importlib, json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in packages:
            raise ModuleNotFoundError(name, name=name.partition(".")[0])

packages, modules = map(json.loads, sys.argv[1:])
sys.meta_path.insert(0, Missing())
stopped = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as problem:
        # Some say how to install what is missing: the cause is the same.
        missing = problem if isinstance(problem, ModuleNotFoundError) else problem.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            raise
        stopped[module] = missing.name
print(json.dumps(stopped))
"""


def only_of(extra: str) -> list[str]:
    """Return the packages to import that an extra alone declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {Requirement(one).name for one in project["optional-dependencies"][extra]}
    others = {Requirement(one).name for one in project["dependencies"]}
    return sorted(name.replace("-", "_") for name in names - others)


def test_what_captions_and_serves_needs_nothing_of_training() -> None:
    modules = [
        module_name(path)
        for part in ("captioner", "serving")
        for path in modules_of(part)
        if path.name != "__main__.py"
    ]
    missing = json.dumps(only_of("training") + only_of("openvino"))
    stopped = json.loads(run_python(WALK, missing, json.dumps(modules)))
    unexpected = {
        module: package
        for module, package in stopped.items()
        if not any(is_within(module, one) for one in OF_TRAINING)
    }
    assert unexpected == {}
    assert {
        one for one in OF_TRAINING if not any(is_within(name, one) for name in stopped)
    } == set()


def test_torch_and_torchvision_belong_together() -> None:
    import torch
    import torchvision

    # A compiled operator: it is missing where torchvision was built for another torch.
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 29.0, 29.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert kept.tolist() == [0, 2]
    for pin in map(Requirement, requires("torchvision") or []):
        if pin.name == "torch":
            assert pin.specifier.contains(Version(torch.__version__).base_version)


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in sum(extras, project["dependencies"])]


@pytest.mark.parametrize("name", FLOORS)
def test_nothing_below_the_floor_is_allowed(name: str) -> None:
    *leading, last = Version(FLOORS[name]).release
    while last == 0:
        last = leading.pop()
    below = ".".join(str(part) for part in (*leading, last - 1, 9999))
    requirement = next(one for one in declared() if one.name == name)
    assert not requirement.specifier.contains(below)


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_what_is_installed_is_what_is_declared(requirement: Requirement) -> None:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip(f"{requirement.name} is not installed here")
    assert requirement.specifier.contains(installed, prereleases=True)
