"""Prometheus metrics of the service.

With several workers, each writes into files of one folder (prometheus-client's multiprocess mode),
and any of them answers for all. Routes are labelled by their template, so the number of time series
is bounded whatever paths are requested.
"""

import os
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

disable_created_metrics()  # a second series for each counter, which nobody here reads

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus-client when it is imported
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# OpenTelemetry's advice for http.server.request.duration, with more at both ends; the same for
# all stages, so that they can be compared.
SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 30.0,
)  # fmt: skip
IMAGES = (1, 2, 4, 8, 16, 32, 64)
BYTES = tuple(float(1 << power) for power in range(10, 27, 2))


class Metrics:
    """The metrics of one process; it is also what the batcher reports to."""

    def __init__(self) -> None:
        self.is_shared = FOLDER_VARIABLE in os.environ
        self.registry = CollectorRegistry()
        if not self.is_shared:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=SECONDS)
        self.requests = counter(
            "http_requests_total", "Requests answered.", ("method", "route", "status")
        )
        self.request_seconds = histogram(
            "http_request_duration_seconds",
            "From a request's header to the end of its answer.",
            ("method", "route"),
        )
        self.upload_bytes = histogram(
            "caption_upload_bytes", "Size of images received.", buckets=BYTES
        )
        self.depth = Gauge(
            "caption_queue_depth",
            "Images that wait for the model.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.wait_seconds = histogram("caption_queue_wait_seconds", "Wait for a batch.")
        self.batch_size = histogram("caption_batch_size", "Images of a batch.", buckets=IMAGES)
        self.stage_seconds = histogram(
            "caption_stage_seconds", "Duration of each stage of a request.", ("stage",)
        )
        self.rejected = counter("caption_rejected_total", "Requests refused.", ("code",))
        self.cancelled_requests = counter(
            "caption_cancelled_total", "Requests whose client hung up."
        )
        self.decoders_killed = counter(
            "caption_decode_killed_total", "Decoding processes killed or crashed."
        )
        self.model = Gauge(
            "caption_model_info",
            "1 for the model that is served.",
            ("name", "hash"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def serve_model(
        self, name: str, checkpoint_hash: str, *, instead_of: tuple[str, str] | None
    ) -> None:
        if instead_of is not None:
            self.model.labels(*instead_of).set(0)
        self.model.labels(name, checkpoint_hash).set(1)

    def text(self) -> bytes:
        """Return all metrics, of all workers, in the text format of Prometheus."""
        if not self.is_shared:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)

    def queue_depth(self, number: int) -> None:
        self.depth.set(number)

    def queue_wait(self, seconds: float) -> None:
        self.wait_seconds.observe(seconds)
        self.stage("queue", seconds)

    def batch(self, size: int) -> None:
        self.batch_size.observe(size)

    def stage(self, name: str, seconds: float) -> None:
        self.stage_seconds.labels(name).observe(seconds)
