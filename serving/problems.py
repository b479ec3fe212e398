"""Problems: every way a request can fail, with code, status and text, in the form of each API.

The service's own routes answer with RFC 9457 problem details, whose `type` links to the code's
entry at `/problems`. The routes of other APIs answer in the form of those. No other module maps an
error of `captioner` or of the queue to a status.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from captioner.errors import CheckpointError
from serving.errors import (
    CaptioningFailed,
    DeadlineExceeded,
    ImageRejected,
    NotReady,
    Overloaded,
)

PROBLEM_JSON = "application/problem+json"
NOT_READY_RETRY_SECONDS = 2


@dataclass(frozen=True)
class Kind:
    """One kind of problem, as the documents list it."""

    status: int
    title: str
    advice: str


KINDS = {
    "bad_request": Kind(400, "The request cannot be understood", "Send well-formed HTTP."),
    "unauthorized": Kind(
        401,
        "A valid key is needed",
        "Send the key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    ),
    "not_found": Kind(404, "There is nothing at this path", "See /docs for what there is."),
    "method_not_allowed": Kind(
        405, "This path does not know the method", "The `Allow` header lists what it knows."
    ),
    "receive_timeout": Kind(
        408, "The request came too slowly", "Send header and body within the time in `limit`."
    ),
    "body_too_large": Kind(
        413, "The body is too large", "Send a smaller or more compressed image."
    ),
    "image_too_large": Kind(
        413, "The image is too large", "Send an image with fewer pixels, fewer scans or less text."
    ),
    "unsupported_format": Kind(
        415, "The format is not supported", "Save the picture as JPEG or PNG and send that."
    ),
    "missing_file": Kind(
        422,
        "There is no image in the request",
        "Send one as the field `image`, as the body, or as JSON.",
    ),
    "invalid_parameter": Kind(
        422, "An option is not valid", "`detail` names the option and what it may be."
    ),
    "corrupt_image": Kind(
        422, "The image cannot be decoded", "Save the picture anew as JPEG or PNG."
    ),
    "rate_limited": Kind(
        429, "Too many requests from this client", "Wait as long as `Retry-After` says."
    ),
    "overloaded": Kind(
        429, "The service has more work than it can do", "Wait as long as `Retry-After` says."
    ),
    "header_too_large": Kind(431, "The header is too large", "Send fewer or shorter headers."),
    "internal_error": Kind(
        500, "The service failed", "Report the `request_id`; the log has the cause."
    ),
    "not_ready": Kind(
        503, "The service is starting or shutting down", "Try again after `Retry-After`."
    ),
    "reload_failed": Kind(
        503, "The new checkpoint could not be loaded", "The old one serves on; see `detail`."
    ),
    "too_many_connections": Kind(
        503, "The service has as many connections as it takes", "Try again after `Retry-After`."
    ),
    "deadline_exceeded": Kind(
        504, "The time for this request is over", "Send it again, or allow more time."
    ),
}


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """A request that fails, and why; the text of `detail` goes to the client."""

    code: str
    detail: str
    retry_after_seconds: int | None = None
    members: dict[str, Any] = field(default_factory=dict)  # further ones, such as `limit`
    headers: dict[str, str] = field(default_factory=dict)
    closes_connection: bool = False

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def status(self) -> int:
        return KINDS[self.code].status

    def body(self, request_id: str, path: str = "/") -> dict[str, Any]:
        """Return the members of RFC 9457 and ours beside them.

        `type` is relative to the `path` that was asked for: behind a proxy that strips a prefix,
        the service does not know its own address.
        """
        kind = KINDS[self.code]
        body = {
            "type": f"{'../' * (path.count('/') - 1)}problems#{self.code}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.members,
        }
        if self.retry_after_seconds is not None:
            body["retry_after_seconds"] = self.retry_after_seconds
        return body

    def all_headers(self) -> dict[str, str]:
        headers = dict(self.headers)
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.code == "unauthorized":
            headers["WWW-Authenticate"] = 'Bearer realm="captioner"'
        if self.closes_connection:
            headers["Connection"] = "close"
        return headers


def problem_of(error: Exception) -> Problem:
    """Return the problem that an error of the library or of the queue is to a client.

    An error that no request can cause is an internal one, and its text stays in the log.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, ImageRejected):
        return Problem(error.code, error.detail)
    if isinstance(error, Overloaded):
        return Problem("overloaded", str(error), retry_after_seconds=error.retry_after_seconds)
    if isinstance(error, NotReady):
        return Problem("not_ready", str(error), retry_after_seconds=NOT_READY_RETRY_SECONDS)
    if isinstance(error, DeadlineExceeded):
        return Problem("deadline_exceeded", str(error))
    if isinstance(error, CheckpointError):
        return Problem("reload_failed", str(error))
    if isinstance(error, CaptioningFailed):
        return Problem("internal_error", "the model failed at this image; the log has the cause")
    return Problem("internal_error", "the service failed; its log has the cause")


def response_to(problem: Problem, path: str, request_id: str) -> JSONResponse:
    """Return the answer, in the form that the clients of `path` know."""
    status, media_type, body = content_of(problem, path, request_id)
    return JSONResponse(body, status, headers=problem.all_headers(), media_type=media_type)


def content_of(problem: Problem, path: str, request_id: str) -> tuple[int, str, Mapping[str, Any]]:
    """Return the status of the answer, the type of its body, and the body."""
    if path.startswith("/v1/"):
        return problem.status, "application/json", _as_openai(problem)
    if path.startswith("/model/"):
        status, body = _as_max(problem)
        return status, "application/json", body
    if path == "/v2" or path.startswith("/v2/"):
        return _open_inference_status(problem), "application/json", {"error": problem.detail}
    return problem.status, PROBLEM_JSON, problem.body(request_id, path)


def _open_inference_status(problem: Problem) -> int:
    """Source: the REST specification of the protocol: a bad request is typically 400."""
    return 400 if problem.status in (415, 422) else problem.status


_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def _as_openai(problem: Problem) -> dict[str, Any]:
    """Source: the error object of OpenAI's API reference."""
    status, parameter = problem.status, problem.members.get("parameter")
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = {"unauthorized": "invalid_api_key"}.get(problem.code, problem.code)
    if (code, parameter) == ("not_found", "model"):
        code = "model_not_found"
    return {
        "error": {
            "message": problem.detail,
            "type": _OPENAI_TYPES.get(status, kind),
            "param": parameter,
            "code": code,
        }
    }


def _as_max(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Source: IBM MAX image caption generator, api/predict.py; it knows 400 for a bad file."""
    if problem.code == "missing_file":
        message = "Input payload validation failed"
        return 400, {"status": "error", "errors": {"image": problem.detail}, "message": message}
    is_bad_file = problem.status in (415, 422)
    return 400 if is_bad_file else problem.status, {"status": "error", "message": problem.detail}
