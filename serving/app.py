"""ASGI application of the service, and the order of its middleware.

`create_app(settings)` is served by any ASGI server. From the outside in, a request gets its context
(id, log, metrics), then passes the rules for other origins, the answers to failures, access control
(keys, rate), the unpacking of its body and that body's limits. `routes/captions.py` continues from
there.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from captioner import __version__
from serving.access import Access, declared_access
from serving.middleware.access_control import AccessControl
from serving.middleware.body_limit import BodyLimit
from serving.middleware.content_coding import CompressedAnswers, ContentDecoding
from serving.middleware.problem_answers import ProblemAnswers
from serving.middleware.request_context import RequestContext
from serving.origins import EXPOSED_HEADERS, OriginRules
from serving.problems import Problem, response_to
from serving.routes import (
    admin,
    captions,
    compatible_max,
    compatible_openai,
    health,
    open_inference,
)
from serving.routes.compatible_openai import ChatRequest
from serving.routes.inference_tensors import InferenceRequest
from serving.routes.page_files import document_routes, page_routes
from serving.routes.request_options import invalid, limit_caption_length
from serving.routes.response_models import ProblemAnswer
from serving.service import Service
from serving.settings import Settings
from serving.telemetry.metrics import FOLDER_VARIABLE
from serving.telemetry.tracing import traced

TITLE = "Caption service"
DESCRIPTION = (
    "Send a photograph, get captions for it. Every failure has a code; [the problems](problems) "
    "say what to do."
)


def create_app(settings: Settings | None = None, service: Service | None = None) -> FastAPI:
    """Return the service as an ASGI application; without `settings`, of the environment's."""
    settings = settings or Settings.from_environment(os.environ)
    service = service or Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        servers=[{"url": "."}],  # beside the document, also behind a proxy that strips a prefix
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    for part in (captions, compatible_max, compatible_openai, open_inference, health, admin):
        app.router.routes.extend(part.router.routes)
    schema = _schema(app, settings)
    app.openapi = lambda: schema  # type: ignore[method-assign]
    app.router.routes.extend([*document_routes(schema), *page_routes()])
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)

    # The last one added is the first one that a request meets.
    app.add_middleware(CompressedAnswers)
    app.add_middleware(
        BodyLimit,
        limit_bytes=settings.body_limit_bytes,
        together_bytes=settings.body_limit_bytes * settings.queue_size,
        timeout_seconds=settings.receive_timeout_seconds,
    )
    app.add_middleware(ContentDecoding)
    shared_folder = os.environ.get(FOLDER_VARIABLE)
    app.add_middleware(
        AccessControl,
        settings=settings,
        routes=app.router.routes,
        shared_folder=None if shared_folder is None else Path(shared_folder),
    )
    app.add_middleware(ProblemAnswers)
    if settings.origins:
        app.add_middleware(
            OriginRules,
            allow_origins=settings.origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # clients add headers of their own, as OpenAI's x-stainless-*
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(RequestContext, metrics=service.metrics)
    if settings.tracing_endpoint is not None:
        app.add_middleware(traced, endpoint=settings.tracing_endpoint)
    return app


def _schema(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document, with what FastAPI cannot know."""
    schema = deepcopy(FastAPI.openapi(app))
    limit_caption_length(schema, settings.longest_caption)
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # our 422 is a problem
        schemas.pop(name, None)
    for model in (
        ProblemAnswer,
        ChatRequest,
        InferenceRequest,
    ):  # named by routes that read and write them alone
        described = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[model.__name__] = described
    # Where a route does not say itself that it answers 422, FastAPI does, and it cannot happen.
    for operation in (one for path in schema["paths"].values() for one in path.values()):
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
    if not (settings.has_keys or settings.admin_keys):
        return schema
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for route in app.router.routes:
        operations = schema["paths"].get(getattr(route, "path", ""), {})
        kind = declared_access(route)
        if kind is Access.ADMIN or (kind is not Access.OPEN and settings.has_keys):
            for operation in operations.values():
                operation["security"] = [{"bearer": []}, {"header": []}]
    return schema


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router finds: no such path, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = _allowed_methods(error)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allow})
        detail = f"{request.method} is not for this path; it knows {allow}"
        problem = Problem("method_not_allowed", detail, headers={"Allow": allow})
    elif error.status_code == 404:
        problem = Problem("not_found", "there is nothing at this path; /docs lists what there is")
    else:
        problem = Problem("bad_request", "the request cannot be understood")
    return _respond(request, problem)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(request, invalid(error.errors()))


def _respond(request: Request, problem: Problem) -> Response:
    request.state.notes["code"] = problem.code
    return response_to(problem, request.url.path, request.state.request_id)


def _allowed_methods(error: HTTPException) -> str:
    """Return the methods of the path that was asked for, as the `Allow` header lists them."""
    methods = {word.strip() for word in (error.headers or {}).get("Allow", "").split(",") if word}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods | {"OPTIONS"}))
