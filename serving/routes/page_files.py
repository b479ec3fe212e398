"""Static files, read once when the service starts: the page at `/` and the interface's documents.

Only listed files are served, so no path can lead elsewhere. Their policy allows the page's own
files and the pictures that the user chose, and nothing from other hosts: Swagger UI's files come
from the package fastapi-offline. All links are relative, for a proxy that strips a prefix.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.access import Access, access
from serving.problems import KINDS

FOLDER = Path(__file__).parents[1] / "page"
CACHE_SECONDS = 300
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
OF_STATIC_PAGE = (  # which needs no service: serving/static_page.py writes it
    "browser_back_end.js",
    "captioner.js",
    "example.css",
    "photo_caption.js",
    "service_worker.js",
)
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
_ETAGS = re.compile(r'(?:W/)?("[^"]*")')


def page_routes(folder: Path = FOLDER) -> Iterator[BaseRoute]:
    """Yield a route for each file of the page, its examples too; `index.html` is at `/` as well."""
    yield file_route("/", folder / "index.html")
    for path in sorted(folder.glob("*")):
        is_page = path.suffix != ".html" or path.stem == "index"
        if path.suffix in MEDIA_TYPES and is_page and path.name not in OF_STATIC_PAGE:
            yield file_route(f"/{path.name}", path)
    for path in sorted(folder.glob("examples/*.jpg")):
        yield file_route(f"/examples/{path.name}", path)


def document_routes(schema: dict[str, Any]) -> Iterator[BaseRoute]:
    """Yield `/openapi.json`, the Swagger page at `/docs`, and `/problems`."""
    yield content_route("/openapi.json", json.dumps(schema).encode(), "application/json")
    yield file_route("/docs", FOLDER / "docs.html")
    yield content_route("/problems", _problems_page().encode(), "text/html; charset=utf-8")
    swagger = Path(str(files("fastapi_offline"))) / "static"
    for name in SWAGGER_FILES:
        yield file_route(f"/{name}", swagger / name)


def _problems_page() -> str:
    """Return a page with an entry for each code, to which the `type` of a problem leads."""
    rows = "".join(
        f'<tr id="{code}"><th scope="row"><code>{code}</code></th><td>{kind.status}</td>'
        f"<td>{html.escape(kind.title)}</td><td>{_as_html(kind.advice)}</td></tr>\n"
        for code, kind in KINDS.items()
    )
    page = (FOLDER / "problems.html").read_text(encoding="utf-8")
    return page.replace("<!-- rows -->", rows)


def _as_html(text: str) -> str:
    """Return a text whose words between backticks are code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


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
        known = request.headers.get("if-none-match", "")
        if known.strip() == "*" or headers["ETag"] in _ETAGS.findall(known):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return Route(address, answer)
