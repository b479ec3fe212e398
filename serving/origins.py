"""Origins: web sites whose pages may read the service's answers (the Fetch standard's CORS)."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

# What a page may read. The last one says where the JSON of an inference ends and its tensors begin.
EXPOSED_HEADERS = ("X-Request-ID", "Retry-After", "Inference-Header-Content-Length")
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")


class OriginRules(CORSMiddleware):
    """Starlette's rules; a page that may not ask is told so by what the answer lacks."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        return Response(status_code=204, headers={"Vary": "Origin"})


def normal_origin(text: str) -> str:
    """Return an origin as browsers send it: lower case, without a default port or a last slash.

    Raises:
        ValueError: it is no origin of a web site.
    """
    if text == "*":
        return text
    try:
        parts = urlsplit(text)
        scheme, port = parts.scheme, parts.port
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError too
        scheme = host = ""
    rest = text.partition("://")[2]
    if scheme not in DEFAULT_PORTS or not _HOST.fullmatch(host) or "@" in rest:
        raise ValueError("an origin looks like https://example.org")
    if re.search(r"[/?#]", rest.removesuffix("/")):
        raise ValueError("an origin has no path; leave out what follows the host")
    if port is None or port == DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def cors_headers(
    headers: Iterable[tuple[bytes, bytes]], allowed: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """Return what lets a page read an answer that the connection gives before the application.

    `headers` are those of the request that have arrived. Without its origin among them, any origin
    may read the answer where several are allowed: it says nothing but that the connection failed.
    """
    if not allowed:
        return []
    sent = next((value.decode("latin-1") for name, value in headers if name == b"origin"), None)
    if sent is None or "*" in allowed:
        origin = allowed[0] if len(allowed) == 1 else "*"
    elif sent in allowed:
        origin = sent
    else:
        return []
    return [
        (b"access-control-allow-origin", origin.encode("ascii")),
        (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode("ascii")),
        (b"vary", b"Origin"),
    ]
