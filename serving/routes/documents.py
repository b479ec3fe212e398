"""Documents of the interface: `/openapi.json`, the Swagger page at `/docs`, and `/problems`.

Swagger UI's files come from the package fastapi-offline, so that nothing is loaded from elsewhere.
All links are relative: the pages work behind a proxy that strips a prefix.
"""

import html
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute

from serving.problems import KINDS
from serving.routes.page_files import FOLDER, content_route, file_route

SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")


def document_routes(schema: dict[str, Any]) -> Iterator[BaseRoute]:
    """Yield the routes that show an OpenAPI document to programs and to people."""
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
