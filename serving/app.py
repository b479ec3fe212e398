"""The application: what a request passes on its way, from the outside in.

`create_app(settings)` is served by any ASGI server. A request gets an envelope (id, log, metrics,
answers to failures), passes the origins' rules, the gate (keys, rate) and the limits of its body,
and reaches a route; `captions.py` goes on from there.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response

from captioner import __version__
from serving.middleware.access_control import Gate, is_guarded
from serving.middleware.body_limit import BodyLimit
from serving.middleware.request_context import Envelope
from serving.problems import Problem, response_to
from serving.routes import admin, captions, compatible_max, compatible_openai, health
from serving.routes.page_files import page_routes
from serving.routes.reference_page import STYLE, STYLE_NAME, reference_page
from serving.routes.request_options import TIMEOUT_HEADER, invalid
from serving.routes.response_models import ProblemAnswer
from serving.service import Service
from serving.settings import Settings
from serving.telemetry.tracing import traced

TITLE = "Caption service"
DESCRIPTION = "Send a photograph, get captions for it."
KEY_HEADERS = ("Authorization", "X-API-Key")
REFERENCE_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the service as an ASGI application; without `settings`, of the environment's."""
    settings = settings or Settings.from_environment(os.environ)
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    for part in (captions, compatible_max, compatible_openai, health, admin):
        app.include_router(part.router)
    _add_documents(app, has_keys=settings.has_keys)
    app.router.routes.extend(page_routes())
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)

    # The last one added is the first one that a request meets.
    app.add_middleware(
        BodyLimit,
        limit_bytes=settings.body_limit_bytes,
        together_bytes=settings.body_limit_bytes * settings.queue_size,
        timeout_seconds=settings.receive_timeout_seconds,
    )
    app.add_middleware(Gate, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=[*KEY_HEADERS, "Content-Type", TIMEOUT_HEADER, "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Envelope, metrics=service.metrics)
    if settings.tracing_endpoint is not None:
        app.add_middleware(traced, endpoint=settings.tracing_endpoint)
    return app


def _add_documents(app: FastAPI, *, has_keys: bool) -> None:
    schema = _schema(app, has_keys=has_keys)
    app.openapi = lambda: schema  # type: ignore[method-assign]
    page = reference_page(schema)

    async def openapi(_: Request) -> Response:
        return JSONResponse(schema)

    async def docs(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": REFERENCE_POLICY})

    async def style(_: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    app.add_route("/openapi.json", openapi, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route(f"/{STYLE_NAME}", style, include_in_schema=False)


def _schema(app: FastAPI, *, has_keys: bool) -> dict[str, Any]:
    """Return the OpenAPI document, with what FastAPI cannot know."""
    schema = FastAPI.openapi(app)
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # our 422 is a problem
        schemas.pop(name, None)
    schemas["ProblemAnswer"] = ProblemAnswer.model_json_schema()
    if not has_keys:
        return schema
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if is_guarded(path, method.upper()):
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
    return _answer(request, problem)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(request, invalid(error.errors()))


def _answer(request: Request, problem: Problem) -> Response:
    request.state.notes["code"] = problem.code
    return response_to(problem, request.url.path, request.state.request_id)


def _allowed_methods(error: HTTPException) -> str:
    """Return the methods of the path that was asked for, as the `Allow` header lists them."""
    methods = {word.strip() for word in (error.headers or {}).get("Allow", "").split(",") if word}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods | {"OPTIONS"}))
