"""Failures in `/openapi.json`: for each route the statuses, and an example per code."""

import json
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
# Before any route is known.
OF_THE_CONNECTION = ("bad_request", "header_too_large", "too_many_connections")
OWN_FORM = (PROBLEM_JSON, {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"})
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
OPEN_INFERENCE_ERROR = {
    "type": "object",
    "properties": {"error": _TEXT},
    "required": ["error"],
}


def route_name(route: APIRoute) -> str:
    """Return a route's name for its `operationId`, which is that of its function."""
    return route.name


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route of our own that may fail with `codes`."""
    return _responses(codes, "/", OWN_FORM)


def openai_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The same for a route whose clients expect OpenAI's errors."""
    return _responses(codes, "/v1/", ("application/json", OPENAI_ERROR))


def max_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The same for a route whose clients expect those of IBM MAX."""
    return _responses(codes, "/model/", ("application/json", MAX_ERROR))


def open_inference_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The same for a route of the Open Inference Protocol."""
    return _responses(codes, "/v2/", ("application/json", OPEN_INFERENCE_ERROR))


def _responses(
    codes: tuple[str, ...], path: str, form: tuple[str, dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        example = response_to(Problem(code, KINDS[code].advice), path, _EXAMPLE_ID)
        media_type, schema = OWN_FORM if code in OF_THE_CONNECTION else form
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
