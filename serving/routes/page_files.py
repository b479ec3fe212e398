"""Static files of the page at `/`, read once when the service starts and kept in memory.

Only the files of the folder `page` are served, so no path can lead elsewhere. Their policy allows
the page's own files and the pictures that the user chose, and nothing from other hosts.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.access import Access, access

FOLDER = Path(__file__).parents[1] / "page"
CACHE_SECONDS = 300
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_ETAGS = re.compile(r'(?:W/)?("[^"]*")')


def page_routes(folder: Path = FOLDER) -> Iterator[BaseRoute]:
    """Yield a route for each file of the page; `index.html` is at `/` too."""
    yield file_route("/", folder / "index.html")
    for path in sorted(folder.glob("*")):
        if path.suffix in MEDIA_TYPES and (path.suffix != ".html" or path.stem == "index"):
            yield file_route(f"/{path.name}", path)


def file_route(address: str, path: Path) -> Route:
    """Return a route that answers with one file, as `content_route` does."""
    return content_route(address, path.read_bytes(), MEDIA_TYPES[path.suffix])


def content_route(address: str, content: bytes, media_type: str) -> Route:
    """Return a route that answers with `content`, or with 304 to a client that has it already."""
    headers = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        "Cache-Control": f"public, max-age={CACHE_SECONDS}",
        "Content-Security-Policy": POLICY,
        "Content-Type": media_type,
    }

    @access(Access.OPEN)
    async def answer(request: Request) -> Response:
        if headers["ETag"] in _ETAGS.findall(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return Route(address, answer)
