"""Failures in `/openapi.json`: for each route the statuses, and an example per code."""

import json
from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute

from serving.problems import KINDS, PROBLEM_JSON, Problem, response_to
from serving.routes.response_models import ProblemAnswer

BINARY = {"type": "string", "format": "binary", "minLength": 1}
IMAGE_ENCODING = {  # of the field of a form; whoever tests by the document learns what to send
    "image": {"contentType": "image/jpeg, image/png, image/webp, image/gif, image/bmp"}
}
EXAMPLE_IMAGE = (  # a PNG of one pixel, as base64
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
IMAGE_CODES = ("missing_file", "corrupt_image", "unsupported_format", "image_too_large")
COMMON_CODES = (
    "bad_request",
    "unauthorized",
    "receive_timeout",
    "body_too_large",
    "invalid_parameter",
    "rate_limited",
    "overloaded",
    "header_too_large",
    "internal_error",
    "not_ready",
    "too_many_connections",
    "deadline_exceeded",
)
_EXAMPLE_ID = "3f2b8c0d9e5a4c7d8b1e6f0a2c4d6e8f"
_TEXT = {"type": "string"}
OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": _TEXT,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
MAX_ERROR = {
    "type": "object",
    "properties": {"status": _TEXT, "message": _TEXT, "errors": {"type": "object"}},
    "required": ["message"],
}


def route_name(route: APIRoute) -> str:
    """Return a route's name for its `operationId`, which is that of its function."""
    return route.name


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route of our own that may fail with `codes`."""
    schema = {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}
    return _responses(codes, "/", lambda _: (PROBLEM_JSON, schema))


def openai_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The same for a route whose clients expect OpenAI's errors."""
    return _responses(codes, "/v1/", lambda _: ("application/json", OPENAI_ERROR))


def max_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The same for a route whose clients expect those of IBM MAX."""
    return _responses(codes, "/model/", lambda _: ("application/json", MAX_ERROR))


def _responses(
    codes: tuple[str, ...], path: str, form: Callable[[int], tuple[str, dict[str, Any]]]
) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        problem = Problem(code, KINDS[code].advice)
        example = response_to(problem, path, _EXAMPLE_ID)
        own = code in ("bad_request", "header_too_large", "too_many_connections")
        media_type, schema = (
            (PROBLEM_JSON, {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"})
            if own  # said by the connection, before any route is known
            else form(example.status_code)
        )
        response = responses.setdefault(example.status_code, {"description": "", "content": {}})
        response["description"] += f"`{code}`: {KINDS[code].title}. "
        content = response["content"].setdefault(media_type, {"schema": schema, "examples": {}})
        content["examples"][code] = {"value": json.loads(bytes(example.body))}
        if KINDS[code].status in (429, 503):
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
    return responses
