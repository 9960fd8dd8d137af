"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, open files, CPU time
        self.requests = Counter(
            "mask2former_requests",
            "Requests answered, by path and status",
            ("path", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "mask2former_request_seconds",
            "Time from the headers of a request to the end of its answer",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue = Gauge(
            "mask2former_queue_depth",
            "Requests with an image that are in the server",
            registry=self.registry,
        )
        self.model_seconds = Histogram(
            "mask2former_model_seconds",
            "Time of the model per batch",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "mask2former_batch_size",
            "Images per batch",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)
