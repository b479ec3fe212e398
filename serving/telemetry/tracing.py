"""OpenTelemetry traces, if the extra `tracing` is installed and an endpoint is set.

Without an endpoint nothing of it is imported, and a stage costs a null context.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from captioner import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_tracers: list[Any] = []  # the one tracer of this process, once tracing is on


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Trace what happens inside as one span of the request."""
    if not _tracers:
        yield
        return
    with _tracers[0].start_as_current_span(name):
        yield


def note(**attributes: str | int | float) -> None:
    """Add to the span that is open now, if there is one."""
    if _tracers:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(attributes)


def traced(app: "ASGIApp", endpoint: str) -> "ASGIApp":
    """Return `app` with a span for each request, sent to `endpoint` in batches."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "captioner", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _tracers[:] = [provider.get_tracer("serving")]
    return OpenTelemetryMiddleware(app, tracer_provider=provider, exclude_spans=["receive", "send"])
