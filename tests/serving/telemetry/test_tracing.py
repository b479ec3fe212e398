"""Traces reach a collector over OTLP: a span for each request, with its id and its stages."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.settings import Settings
from serving.telemetry import tracing

from ..conftest import jpeg
from ..fake_model import FakeModel

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="the extra 'tracing' is missing")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector's address, and the spans that it got."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            sent = ExportTraceServiceRequest.FromString(body)
            for resource in sent.resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                assert names["service.name"] == "captioner"
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        finally:
            server.shutdown()
            thread.join()


def test_a_request_is_traced_with_its_id_and_stages(
    collector: tuple[str, list[Any]],
    model: FakeModel,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint, spans = collector
    monkeypatch.setattr(tracing, "_tracers", [])
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    settings = Settings(checkpoint=Path("."), tracing_endpoint=endpoint)
    with TestClient(create_app(settings)) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.01)
        sent = client.post("/caption", content=jpeg(), headers={"X-Request-ID": "trace-me"})
        assert sent.status_code == 200
    end = time.monotonic() + 60
    while not any(_attributes(span).get("request_id") == "trace-me" for span in spans):
        assert time.monotonic() < end, [span.name for span in spans]
        time.sleep(0.02)
    request = next(one for one in spans if _attributes(one).get("request_id") == "trace-me")
    inside = {one.name: one for one in spans if one.trace_id == request.trace_id}
    assert {"receive", "decode", "model"} <= set(inside)
    for name in ("receive", "decode", "model"):
        assert inside[name].parent_span_id == request.span_id
        assert request.start_time_unix_nano <= inside[name].start_time_unix_nano
    assert _attributes(inside["model"])["batch_size"] == 1
    assert {"queue_seconds", "encode_seconds", "search_seconds"} <= set(
        _attributes(inside["model"])
    )


def _attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
