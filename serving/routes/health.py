"""Health, version, metadata and metrics, all open to everybody.

Live means that the event loop runs; ready means that a caption would be accepted. The paths of
KServe's open inference protocol are aliases, for clusters that use it.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from captioner import __version__
from serving.access import Access, access
from serving.errors import NotReady
from serving.routes.captioning import service_of
from serving.routes.openapi_responses import problems, route_name
from serving.routes.request_options import OptionFields
from serving.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"], generate_unique_id_function=route_name)


class Live(BaseModel):
    """The process answers."""

    status: str = Field(examples=["live"])
    live: bool


class Ready(BaseModel):
    """A caption would be accepted."""

    status: str = Field(examples=["ready"])
    ready: bool
    engine: str = Field(description="What runs the model.", examples=["onnxruntime"])
    precision: dict[str, str] = Field(
        description="Of each part of the model.",
        examples=[{"encoder": "float32", "decoder": "int8"}],
    )


class Version(BaseModel):
    """Which program this is."""

    name: str
    version: str


class ServiceMetadata(BaseModel):
    """What is served, and within which limits."""

    name: str
    version: str
    model: dict[str, Any] = Field(
        examples=[{"name": "flickr8k", "hash": "9f86d081…", "words": 3000}]
    )
    formats: list[str] = Field(examples=[["JPEG", "PNG", "WEBP", "GIF", "BMP"]])
    limits: dict[str, float] = Field(examples=[{"body_bytes": 10_485_760}])
    options: dict[str, Any] = Field(examples=[{"beam_size": 3}])


@router.get("/health/live", summary="Whether the process answers")
@router.get("/health", include_in_schema=False)
@router.get("/v2/health/live", include_in_schema=False)
@access(Access.OPEN)
async def live() -> Live:
    return Live(status="live", live=True)


@router.get(
    "/health/ready", summary="Whether captions are accepted", responses=problems("not_ready")
)
@router.get("/ready", include_in_schema=False)
@router.get("/v2/health/ready", include_in_schema=False)
@access(Access.OPEN)
async def ready(request: Request) -> Ready:
    reason = service_of(request).why_not_ready()
    if reason is not None:
        raise NotReady(reason)
    engine = service_of(request).model.engine
    precision = engine.get("precision", {})
    return Ready(status="ready", ready=True, engine=engine["engine"], precision=precision)


@router.get("/version", summary="Which version this is")
@access(Access.OPEN)
async def version() -> Version:
    return Version(name="captioner", version=__version__)


@router.get(
    "/metadata",
    summary="The model, the limits and the options",
    responses=problems("not_ready"),
)
@access(Access.OPEN)
async def metadata(request: Request) -> ServiceMetadata:
    service = service_of(request)
    model, settings = service.model, service.settings
    return ServiceMetadata(
        name="captioner",
        version=__version__,
        model={
            "name": model.name,
            "hash": model.hash,
            "words": len(model.vocabulary),
            "loaded_at": model.loaded_at,
            **model.engine,
        },
        formats=list(service.image_limits.formats),
        limits={
            "body_bytes": settings.body_limit_bytes,
            "pixels": settings.pixel_limit,
            "side": settings.side_limit,
            "scans": settings.scan_limit,
            "request_seconds": settings.request_timeout_seconds,
            "max_length": settings.longest_caption,
        },
        options={
            name: one.get_default(call_default_factory=True)
            for name, one in OptionFields.model_fields.items()
        },
    )


@router.get(
    "/metrics",
    summary="Counts and timings for Prometheus",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": "caption_queue_depth 0.0\n"}}}},
)
@access(Access.OPEN)
async def metrics(request: Request) -> PlainTextResponse:
    service = service_of(request)
    service.refusals.publish()
    return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE)
