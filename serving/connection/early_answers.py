"""Answers that the connection gives before the application is asked, as the bytes to send.

They have the form, the id and the headers of the application's own answers. Whatever does not
depend on the request is made once.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.answer_headers import SECURITY_HEADERS, request_id_of
from serving.origins import cors_headers
from serving.problems import Problem, content_of

_PLACE = "\0"  # where the request's id goes in a body that is made once
_WRITTEN_PLACE = json.dumps(_PLACE).strip('"').encode()

RawHeaders = Sequence[tuple[bytes, bytes]]  # names in lower case


def early_answer(
    problem: Problem,
    headers: RawHeaders,
    origins: Sequence[str],
    server_headers: RawHeaders,
    *,
    path: str,
    closes: bool,
) -> tuple[bytes, str]:
    """Return an answer, which `closes` the connection or not, and the id in it.

    `headers` are those of the request that have arrived, `server_headers` those of every answer,
    such as its date.
    """
    sent = next((value for name, value in headers if name == b"x-request-id"), None)
    request_id = request_id_of(None if sent is None else sent.decode("latin-1"))
    head, body = _made_once(
        problem.code,
        problem.detail,
        problem.retry_after_seconds,
        tuple(problem.members.items()),
        path,
    )
    encoded = request_id.encode("ascii")
    content = body.replace(_WRITTEN_PLACE, encoded)
    parts = [head, b"x-request-id: %s\r\ncontent-length: %d\r\n" % (encoded, len(content))]
    parts += [b"%s: %s\r\n" % field for field in (*server_headers, *cors_headers(headers, origins))]
    parts += [b"connection: close\r\n\r\n" if closes else b"\r\n", content]
    return b"".join(parts), request_id


@lru_cache(256)
def _made_once(
    code: str, detail: str, retry_after: int | None, members: tuple[tuple[str, Any], ...], path: str
) -> tuple[bytes, bytes]:
    """Return the first lines of an answer, and its body without the request's id."""
    problem = Problem(code, detail, retry_after, dict(members))
    status, media_type, body = content_of(problem, path, _PLACE)
    headers = {"Content-Type": media_type, **SECURITY_HEADERS, **problem.all_headers()}
    lines = [f"{name.lower()}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))  # as the application does
    return b"".join([STATUS_LINE[status], *lines]), text.encode()
