"""How long captions take in a browser, and how much memory: the static page in Chromium.

python scripts/bench_browser.py --photographs DIR --out docs/results/browser.json

A server of files on this machine hosts the page, so the model's download costs nothing. A phone is
a small window whose processes are stopped for three quarters of the time: all threads, which
Chromium's own throttling does not reach.
"""

import argparse
import functools
import http.server
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from captioner.checkpoint_folders import shipped_model
from captioner.errors import CaptionerError, DataError, ToolError
from captioner.program import BAD_INPUT
from serving.static_page import export_static_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BLOCK = re.compile(r"(<!-- measured -->).*(<!-- /measured -->)", re.DOTALL)
MANY = 50  # photographs, after which the memory should be what it was
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SLICE_SECONDS = 0.04  # of throttling
TIMEOUT_MILLISECONDS = 300_000
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
CAPTION = """async ([path, options]) => {
    const { Captioner } = await import(new URL("captioner.js", document.baseURI).href);
    globalThis.loading ??= Captioner.load("./", options);
    const captioner = await globalThis.loading;
    const blob = await (await fetch(path)).blob();
    const before = performance.now();
    const answer = await captioner.look(blob);
    return { ...answer.milliseconds, asked: performance.now() - before, info: captioner.info };
}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR", help="JPEGs")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the package's")
    parser.add_argument("--many", type=int, default=MANY, metavar="N", help="for the memory")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    parser.add_argument("--document", type=Path, metavar="FILE", help="whose table to renew")
    arguments = parser.parse_args(argv)
    try:
        found = measure(arguments.photographs, arguments.checkpoint, arguments.many)
    except CaptionerError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    lines = "\n".join(table(found))
    print(lines)
    if arguments.document is not None:
        text = arguments.document.read_text(encoding="utf-8")
        arguments.document.write_text(BLOCK.sub(rf"\1\n{lines}\n\2", text), encoding="utf-8")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(photographs: Path, checkpoint: Path | None, many: int) -> dict[str, Any]:
    """Return the measurements, seconds and megabytes, by setting.

    Raises:
        DataError: there are no photographs.
        ToolError: there is no Chromium, or no runtime for browsers.
    """
    paths = sorted(photographs.glob("*.jpg"))
    if not paths:
        raise DataError(f"{photographs} holds no .jpg; name a folder with photographs")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        raise ToolError("there is no chromium; install it, or name one in CHROMIUM")
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="captioner-browser-") as work:
        site = Path(work) / "site"
        folder = shipped_model() if checkpoint is None else checkpoint
        export_static_page(folder, site, announce=print)
        (site / "photographs").mkdir()
        for path in paths:
            shutil.copy(path, site / "photographs")
        names = [f"photographs/{path.name}" for path in paths]
        size = sum(path.stat().st_size for path in site.rglob("*.*") if path.is_file())
        found["site_bytes"] = size - sum(path.stat().st_size for path in paths)
        with sync_playwright() as driver:
            for name, headers, viewport, share in (
                ("one thread", {}, DESK, 1.0),
                ("threads", ISOLATION, DESK, 1.0),
                ("phone", {}, PHONE, 0.25),
            ):
                browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
                with hosted(site, headers) as url, throttled(share):
                    count = many if name == "one thread" else 5
                    found[name] = measure_setting(browser, url, viewport, names, count)
                browser.close()
        found["chromium"] = program_version(program)
        found["processor"] = processor()
    return found


def measure_setting(
    browser: "Browser", url: str, viewport: Any, names: Sequence[str], count: int
) -> dict[str, Any]:
    """Return what one way of hosting and looking gives, with the model in the browser's cache."""
    context = browser.new_context(viewport=viewport)
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    page = context.new_page()
    page.goto(url + "example.html")
    cold = timed(page, names[0])
    page.reload()
    warm = timed(page, names[0])
    each, memory = [], []
    for number, name in enumerate(itertools.islice(itertools.cycle(names), count), start=1):
        each.append(timed(page, name)[1])
        if number in (5, 10, count) or number % 25 == 0:
            memory.append({"photographs": number, "megabytes": round(memory_of_browser() / 1e6)})
    context.close()
    return {
        "first_visit_seconds": round(cold[0], 2),
        "first_caption_seconds": round(warm[0], 2),
        "caption_seconds": round(statistics.median(one["asked"] for one in each) / 1000, 3),
        "parts_seconds": {
            part: round(statistics.median(one[part] for one in each) / 1000, 3)
            for part in ("decode", "encode", "search")
        },
        "threads": warm[1]["info"]["threads"],
        "device": warm[1]["info"]["device"],
        "memory": memory,
    }


def timed(page: "Page", name: str) -> tuple[float, dict[str, Any]]:
    """Return the seconds from the wish to the caption, with what the module says of it."""
    began = time.perf_counter()
    answer = page.evaluate(CAPTION, [name, {"device": "wasm"}])
    return time.perf_counter() - began, answer


@contextmanager
def hosted(folder: Path, headers: dict[str, str]) -> Iterator[str]:
    """Serve a folder, and yield its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def throttled(share: float) -> Iterator[None]:
    """Let the browser's processes that show pages run for a share of the time."""
    if share >= 1:
        yield
        return
    is_over = threading.Event()

    def throttle() -> None:
        while not is_over.wait(SLICE_SECONDS * share):
            processes = renderers()
            for process in processes:
                process.suspend()
            time.sleep(SLICE_SECONDS * (1 - share))
            for process in processes:
                process.resume()

    thread = threading.Thread(target=throttle, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def renderers() -> list[psutil.Process]:
    """Return the processes of our browser that show pages and compute for them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in process.cmdline():
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


def memory_of_browser() -> int:
    """Return the bytes of memory of the processes that show pages, shared ones left out."""
    return sum(int(process.memory_full_info().uss) for process in renderers())


def program_version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def processor() -> str:
    """Return the name of this machine's processor and how many cores it has."""
    named = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{named[1] if named else 'a processor'}, {os.cpu_count()} cores"


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"{found['site_bytes'] / 1e6:.1f} MB in all. {found['chromium']}, {found['processor']}:"
    yield ""
    yield "| setting | first visit | first caption after | each further | decode, encode, search |"
    yield "|---|---|---|---|---|"
    for name in ("one thread", "threads", "phone"):
        one = found[name]
        parts = ", ".join(f"{seconds:.2f}" for seconds in one["parts_seconds"].values())
        yield (
            f"| {name} ({one['threads']}) | {one['first_visit_seconds']} s "
            f"| {one['first_caption_seconds']} s | {one['caption_seconds']} s | {parts} s |"
        )
    points = (f"{one['megabytes']} ({one['photographs']})" for one in found["one thread"]["memory"])
    yield ""
    yield f"Megabytes of the page's process after so many photographs: {', '.join(points)}."


if __name__ == "__main__":
    sys.exit(main())
