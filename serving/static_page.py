"""The page as static files, with a captioner that computes in the browser.

The files are those of the service's page; in place of its back end stands one that asks a worker.
The model and its runtime lie beside them in compressed pieces named by their hash, which a browser
can keep for good, and `model.json` says which pieces make which file. docs/browser.md has how to
host the folder and how to use the module `captioner.js` alone.
"""

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioner import graphs
from captioner.confidence import read_confidence_curve
from captioner.deployable import DECODER, ENCODER, VOCABULARY, Deployable, load_deployable
from captioner.errors import CheckpointError, OptionError
from captioner.files import carry_over, folder_written_aside
from captioner.hashed_folder import HASHES
from serving.model import name_of
from serving.onnxruntime_web import BUILDS, PAGE, Build, onnxruntime_web

Announce = Callable[[str], None]

FORMAT_VERSION = 1
MOST_BYTES = 40_000_000  # of a page
PIECE_BYTES = 4 * 1024 * 1024  # before compression
MODEL, PIECES, RUNTIME = "model.json", "pieces", "onnxruntime"
BACK_END = "back_end.js"
BROWSER_BACK_END = "browser_back_end.js"  # stands for BACK_END in the folder
SERVICE_WORKER, FILES = "service_worker.js", "files.js"
_LIST = "self.FILES = "  # in FILES
OF_SERVICE = ("docs.html", "docs.js", "problems.html", "service.js", BACK_END)
COPIED = (".html", ".css", ".js", ".jpg", ".svg", ".webmanifest", ".txt")

OF_HOSTS = (".git", ".gitattributes", ".github", ".gitignore", ".nojekyll", "CNAME")

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; worker-src 'self'; "
    "manifest-src 'self'; form-action 'none'; base-uri 'none'"
)
# Read by several hosts of static files; the two headers of isolation allow threads.
HEADERS_FILE = "_headers"
HEADERS = f"""\
/*
  Content-Security-Policy: {POLICY}; frame-ancestors 'none'
  Cross-Origin-Opener-Policy: same-origin
  Cross-Origin-Embedder-Policy: require-corp
  X-Content-Type-Options: nosniff
  Referrer-Policy: no-referrer
/{PIECES}/*
  Cache-Control: public, max-age=31536000, immutable
"""
_OF_SERVICE = re.compile(r"[ \t]*<!-- service -->.*?<!-- /service -->\n?", re.DOTALL)
_OF_BROWSER = re.compile(r"[ \t]*<!-- browser\n(.*?)\n?[ \t]*/browser -->", re.DOTALL)


def export_static_page(folder: Path, out: Path, *, announce: Announce) -> None:
    """Write the page for the deployable captioner in `folder`; `announce` takes lines.

    Raises:
        CheckpointError: there is no sound captioner, or one for an engine that browsers lack.
        OptionError: `out` exists and is something else.
        ToolError: the runtime for browsers is not here, and cannot be fetched.
        StorageError: the disk is full or not writable.
    """
    deployable = load_deployable(folder)
    weights_of_graphs(deployable)
    _refuse(out)
    runtime = onnxruntime_web(announce)
    size = write_static_page(deployable, out, name=name_of(folder.resolve()), runtime=runtime)
    announce(f"{out}: {size / 1e6:.1f} MB in all; any server of files can host it")
    if size > MOST_BYTES:
        announce(
            f"more than {MOST_BYTES / 1e6:.0f} MB are much to download; --precision int8 "
            "--encoder-precision float16 makes a model a third as large"
        )


def _refuse(out: Path) -> None:
    if (out / HASHES).is_file():
        raise OptionError(
            f"--web is {out}, which holds a checkpoint or an exported model; choose another folder"
        )
    if out.exists() and not (out.is_dir() and (_is_bare(out) or _files_of(out))):
        raise OptionError(f"--web is {out}, which exists and is no such page; choose another name")


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing but what a host of pages may want in one before any page."""
    return all(path.name in OF_HOSTS for path in folder.iterdir())


def _files_of(folder: Path) -> set[str]:
    """Return what an export wrote into a folder; nothing where it holds no such page."""
    try:
        listed = json.loads((folder / FILES).read_text("utf-8").partition(_LIST)[2].rstrip(";\n"))
    except (OSError, ValueError):
        return set()
    if not (folder / MODEL).is_file() or not (folder / PIECES).is_dir():
        return set()
    return {*listed, PIECES, SERVICE_WORKER, FILES, HEADERS_FILE}


def write_static_page(deployable: Deployable, out: Path, *, name: str, runtime: Path) -> int:
    """Write the folder `out` for a captioner, and return the bytes of all files of the page.

    `name` is what the page calls the model; `runtime` has the files of ONNX Runtime for browsers.
    The folder appears whole or not at all, and takes the place of one written before, of which it
    keeps what no export wrote, such as `.git` and `CNAME`.

    Raises:
        OptionError: `out` exists and is something else.
        CheckpointError: a part of the captioner is for an engine that browsers lack.
        StorageError: the disk is full or not writable, or something is in the way of a file.
    """
    _refuse(out)
    with folder_written_aside(out, durable=False) as aside:  # it can be made again
        _write_page(aside)
        write_model(deployable, aside, name=name, runtime=runtime)
        _write_list_of_files(aside)
        (aside / HEADERS_FILE).write_text(HEADERS, encoding="utf-8")
        size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
        carry_over(out, aside, all_but=_files_of(out))
    return size


def write_model(deployable: Deployable, out: Path, *, name: str, runtime: Path) -> None:
    """Write what the module `captioner.js` loads: `model.json`, the pieces, and the runtime.

    Raises:
        CheckpointError: a part of the captioner is for an engine that browsers lack.
    """
    (out / PIECES).mkdir()
    (out / RUNTIME).mkdir()
    weights = weights_of_graphs(deployable)
    curve = read_confidence_curve(deployable.folder)
    files: dict[str, Any] = {}
    runtimes = {}
    for device, build in BUILDS.items():
        files[build.binary] = _in_pieces((runtime / build.binary).read_bytes(), out)
        runtimes[device] = _copy_runtime(build, runtime, out)
    for file in (*(one for graph, own in weights.items() for one in (graph, *own)), VOCABULARY):
        files[file] = _in_pieces((deployable.folder / file).read_bytes(), out)
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "hash": deployable.hash,
        "preprocessing": deployable.facts["preprocessing"],
        "grid": deployable.grid,
        "vocabulary_size": len(deployable.vocabulary),
        "share_names": list(deployable.facts.get("share_names", ())),
        "attribute_detector": deployable.facts.get("attribute_detector", ""),
        "confidence": None if curve is None else curve.to_json(),
        "graphs": weights,
        "runtimes": runtimes,
        "files": files,
    }
    (out / MODEL).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def weights_of_graphs(deployable: Deployable) -> dict[str, list[str]]:
    """Return the files of weights that each graph of a captioner reads.

    Raises:
        CheckpointError: a part of the captioner is for an engine that browsers lack.
    """
    listed = [file for part in (ENCODER, DECODER) for file in deployable.part(part)["files"]]
    found = {}
    for graph in (graphs.ENCODER, graphs.PREPARE, graphs.STEP):
        if not deployable.graph(graph).is_file():
            raise CheckpointError(
                f"{deployable.folder} has no {graph}, for it was exported for engine "
                f"{deployable.facts.get('engine')}; export the checkpoint again with "
                "--engine onnxruntime"
            )
        weights = str(Path(graph).with_suffix(".weights"))
        found[graph] = [weights] if weights in listed else []
    return found


def _copy_runtime(build: Build, runtime: Path, out: Path) -> dict[str, str]:
    for name in (build.module, build.glue):
        shutil.copy(runtime / name, out / RUNTIME)
    return {
        "module": f"{RUNTIME}/{build.module}",
        "glue": f"{RUNTIME}/{build.glue}",
        "binary": build.binary,
    }


def _in_pieces(content: bytes, out: Path) -> dict[str, Any]:
    """Write a file's pieces, and return its entry in `model.json`."""
    pieces = []
    for start in range(0, len(content), PIECE_BYTES):
        packed = gzip.compress(content[start : start + PIECE_BYTES], mtime=0)
        digest = hashlib.sha256(packed).hexdigest()
        # Not `.gz`: some hosts would send that as what it is when unpacked.
        name = f"{PIECES}/{digest[:20]}.piece"
        (out / name).write_bytes(packed)
        pieces.append({"name": name, "bytes": len(packed), "sha256": digest})
    return {"bytes": len(content), "pieces": pieces}


def _write_page(out: Path) -> None:
    for path in sorted(PAGE.rglob("*")):
        name = path.relative_to(PAGE)
        is_copied = path.suffix in COPIED and str(name) not in (*OF_SERVICE, BROWSER_BACK_END)
        if not is_copied or "node_modules" in name.parts:
            continue
        (out / name).parent.mkdir(exist_ok=True)
        if path.suffix == ".html":
            (out / name).write_text(_for_browsers(path.read_text(encoding="utf-8")), "utf-8")
        else:
            shutil.copy(path, out / name)
    shutil.copy(PAGE / BROWSER_BACK_END, out / BACK_END)


def _for_browsers(page: str) -> str:
    """Return a page without what needs the service, and with what stands for it."""
    policy = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    )
    page = page.replace('<meta charset="utf-8">', policy, 1)
    return _OF_BROWSER.sub(r"\1", _OF_SERVICE.sub("", page))


def _write_list_of_files(out: Path) -> None:
    """Write the list that the service worker keeps the page by; a new list is a new version."""
    listed = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:20]
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent.name != PIECES and path.name != SERVICE_WORKER
    }
    version = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:20]
    text = f'self.VERSION = "{version}";\n{_LIST}{json.dumps(listed, indent=1)};\n'
    (out / FILES).write_text(text, encoding="utf-8")
