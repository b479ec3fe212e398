"""The page at `/` and its files, read once when the service starts and served from memory.

Only the files of the folder `page` exist here, so no path can lead elsewhere. Its policy allows the
page's own files and the pictures that the user chose, and nothing from another place.
"""

import hashlib
import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parents[1] / "page"
CACHE_SECONDS = 300
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_ETAGS = re.compile(r'(?:W/)?("[^"]*")')


def page_routes(folder: Path = FOLDER) -> Iterator[BaseRoute]:
    """Yield a route for each file of the page; `index.html` is at `/` too."""
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in MEDIA_TYPES:
            answer = _answering(path.read_bytes(), MEDIA_TYPES[path.suffix])
            if path.name == "index.html":
                yield Route("/", answer)
            yield Route(f"/{path.name}", answer)


def _answering(
    content: bytes, media_type: str
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Return a route's function that answers with one file, or 304 to who has it already."""
    headers = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        "Cache-Control": f"public, max-age={CACHE_SECONDS}",
        "Content-Security-Policy": POLICY,
        "Content-Type": media_type,
    }

    async def answer(request: Request) -> Response:
        if headers["ETag"] in _ETAGS.findall(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return answer
