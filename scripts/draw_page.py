"""Photograph the page for the README, with an example captioned: the service's on a desk and on a
phone, and the static one, which captions in the browser.

python scripts/draw_page.py                              # the model in the box, into docs/pictures
python scripts/draw_page.py --checkpoint runs/NAME/best --out pictures/

It runs the service on a free port, the static page from a plain server of files, and the browser
that CHROMIUM names, else `chromium`.
"""

import functools
import http.server
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from captioner.checkpoint_folders import shipped_model
from captioner.errors import OptionError, ToolError
from captioner.files import write_atomically
from captioner.flags import options_parser
from captioner.options import Options, option
from captioner.program import run_program
from serving.static_page import export_static_page

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 120
_JPEG_QUALITY = 86


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture: the window, and what is pointed at."""

    name: str
    theme: str
    width: int  # of the window, in its own pixels
    height: int
    scale: float
    example: str
    word: int  # of the best caption
    is_static: bool = False  # the page that needs no service


SHOTS = (
    Shot(
        name="page.jpg", theme="light", width=1160, height=940, scale=1.25,
        example="Two riders on a beach", word=4,
    ),
    Shot(
        name="page_phone.jpg", theme="dark", width=375, height=806, scale=1.6,
        example="Zebras in a meadow", word=3,
    ),
    Shot(
        name="page_browser.jpg", theme="light", width=1160, height=900, scale=1.0,
        example="A kitchen", word=7, is_static=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DrawOptions(Options):
    out: Path = option(ROOT / "docs" / "pictures", "folder of the pictures", metavar="DIR")
    checkpoint: Path | None = option(
        None, "folder of a model; the one that comes with captioner if not given", metavar="DIR"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Draw as the command line says, and return the exit status."""
    parser = options_parser(
        DrawOptions, prog="draw_page.py", description="Photograph the service's page."
    )
    given = vars(parser.parse_args(argv))
    return run_program("draw_page.py", lambda: draw(DrawOptions.from_json(given)))


def draw(options: DrawOptions) -> None:
    """Start the service, open its page and write the pictures.

    Raises:
        OptionError: there is no such folder.
        ToolError: there is no browser, or the service does not start.
    """
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if browser is None:
        raise ToolError("there is no chromium here; install it, or name one in CHROMIUM")
    if not options.out.is_dir():
        raise OptionError(f"--out is {options.out}, which is no folder; make it first")
    from playwright.sync_api import sync_playwright

    with (
        _service(options.checkpoint) as service,
        _host(options.checkpoint) as host,
        sync_playwright() as driver,
    ):
        # The sandbox needs rights that a container does not give; only our own page is loaded.
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for shot in SHOTS:
            url = host if shot.is_static else service
            write_atomically(options.out / shot.name, _photograph(chromium, url, shot))
            print(f"drawn: {options.out / shot.name}")
        chromium.close()


@contextmanager
def _host(checkpoint: Path | None) -> Iterator[str]:
    """Export the static page, serve its files on a free port, and yield its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    with tempfile.TemporaryDirectory(prefix="captioner-page-") as work:
        site = Path(work) / "site"
        export_static_page(checkpoint or shipped_model(), site, announce=print)
        handler = functools.partial(Handler, directory=str(site))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}/"
            server.shutdown()


@contextmanager
def _service(checkpoint: Path | None) -> Iterator[str]:
    """Run the service on a free port, and yield its address once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving", "--port", str(port)]
    if checkpoint is not None:
        command += ["--checkpoint", str(checkpoint)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait_until_ready(process, url)
            yield url
        finally:
            process.terminate()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise ToolError("the service did not start; its last lines above say why")


def _photograph(chromium: Any, url: str, shot: Shot) -> bytes:
    """Return the page as JPEG, with the example captioned and one word pointed at."""
    context = chromium.new_context(
        color_scheme=shot.theme,
        viewport={"width": shot.width, "height": shot.height},
        device_scale_factor=shot.scale,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(1000 * _READY_SECONDS)
    page.goto(url)
    page.get_by_role("button", name=shot.example).click()
    words = page.locator(".caption.best .word")
    words.first.wait_for()
    words.nth(min(shot.word, words.count() - 1)).click()
    page.locator(".photograph img").scroll_into_view_if_needed()
    if shot.width < 600:
        page.locator(".photograph").evaluate("card => card.scrollIntoView()")
    drawn = page.screenshot()
    context.close()
    small = BytesIO()
    with Image.open(BytesIO(drawn)) as picture:
        picture.convert("RGB").save(small, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    sys.exit(main())
