"""ONNX Runtime for browsers: the few files of the package onnxruntime-web that a page needs.

They are fetched once by npm, in the version and with the hashes of `page/package-lock.json`, which
names no host, and kept in the user's cache. A machine without npm or network can be given them:
`scripts/vendor_onnxruntime_web.py DIR` on another one, then CAPTIONER_ONNXRUNTIME_WEB=DIR.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from captioner.errors import ToolError
from captioner.files import folder_written_aside
from captioner.text import in_one_line

PACKAGE = "onnxruntime-web"
VARIABLE = "CAPTIONER_ONNXRUNTIME_WEB"
MANIFESTS = ("package.json", "package-lock.json")
PAGE = Path(__file__).with_name("page")
SECONDS = 600


@dataclass(frozen=True)
class Build:
    """A build of the runtime, for one device: its module, and the WebAssembly with its loader."""

    module: str
    glue: str
    binary: str


BUILDS = {
    "wasm": Build("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    # The build that waits by JSPI: 17 MB, where the one that works without has 27.
    "webgpu": Build(
        "ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm"
    ),
}
FILES = tuple(
    name for build in BUILDS.values() for name in (build.module, build.glue, build.binary)
)


def onnxruntime_web(announce: Callable[[str], None]) -> Path:
    """Return a folder with `FILES`; `announce` takes a line before something is fetched.

    Raises:
        ToolError: they are not here, and npm is missing or cannot fetch them.
    """
    if given := os.environ.get(VARIABLE):
        return _checked(Path(given))
    lock = json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))
    pinned = lock["packages"][f"node_modules/{PACKAGE}"]
    version = pinned["version"]
    digest = pinned["integrity"].partition("-")[2][:10].translate(str.maketrans("+/", "-_"))
    folder = user_cache_path("captioner") / f"{PACKAGE}-{version}-{digest}"
    if not folder.is_dir():
        announce(f"fetching {PACKAGE} {version} by npm, once")
        fetch(folder)
    return _checked(folder)


def fetch(folder: Path) -> None:
    """Fetch the locked package by npm, and write `FILES` as the folder.

    Raises:
        ToolError: npm is missing or cannot fetch it.
        StorageError: the disk is full or not writable.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ToolError(
            f"{PACKAGE} is fetched by npm, which is not installed here; install Node.js, or give "
            f"its files in {VARIABLE} (scripts/vendor_onnxruntime_web.py makes such a folder)"
        )
    with tempfile.TemporaryDirectory(prefix="captioner-npm-") as work:
        for name in MANIFESTS:
            shutil.copy(PAGE / name, work)
        command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=work, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as problem:
            raise ToolError(
                f"npm did not fetch {PACKAGE} within {SECONDS} s; try again, or give its files in "
                f"{VARIABLE}"
            ) from problem
        if done.returncode:
            raise ToolError(
                f"npm cannot fetch {PACKAGE}: {in_one_line(done.stderr)[-300:]}; check the "
                f"network, or give its files in {VARIABLE}"
            )
        made = Path(work) / "node_modules" / PACKAGE / "dist"
        with folder_written_aside(folder) as aside:
            for name in FILES:
                shutil.copy(made / name, aside)


def _checked(folder: Path) -> Path:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ToolError(
            f"{folder} has no {missing[0]}, which {PACKAGE} holds; make the folder anew by "
            "scripts/vendor_onnxruntime_web.py"
        )
    return folder
