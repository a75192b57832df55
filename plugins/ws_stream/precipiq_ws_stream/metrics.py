"""The stream's metrics. The subscriptions count sends, and the sweep adds them up here once a second."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class StreamMetrics:
    """The metrics of one process. Labels are bounded: transports, error codes, close codes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge(
            "precipiq_stream_connections",
            "open streams",
            ("transport",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.handshakes = Counter(
            "precipiq_stream_handshakes",
            "streams asked for, by result: accepted, or the code of the refusal",
            ("result",),
            registry=registry,
        )
        self.closes = Counter(
            "precipiq_stream_closes",
            "streams ended, by the close code sent; client: it left",
            ("code",),
            registry=registry,
        )
        self.evictions = Counter(
            "precipiq_stream_evictions", "clients evicted because they did not read", ("reason",), registry=registry
        )
        self.frames = Counter("precipiq_stream_frames", "frames handed over to clients", registry=registry)
        self.bytes = Counter("precipiq_stream_sent_bytes", "bytes handed over to clients", registry=registry)
        self.resumes = Counter("precipiq_stream_resumes", "streams that began with a replay", registry=registry)
        self.lag = Gauge(
            "precipiq_stream_lag_entries",
            "entries that the slowest client has not been handed yet",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.delay = Histogram(
            "precipiq_stream_delay_seconds",
            "time from an entry's timestamp until it is handed to the clients of this process",
            buckets=_SECONDS,
            registry=registry,
        )
