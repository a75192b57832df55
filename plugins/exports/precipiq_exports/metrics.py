"""The metrics of exports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge


class ExportMetrics:
    """Counters and gauges; ``result``: completed, failed, retried or lost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._results = Counter(
            "precipiq_exports", "Attempts at exports by how they ended", ["result"], registry=registry
        )
        self._running = Gauge(
            "precipiq_exports_running", "exports that run now", registry=registry, multiprocess_mode="livesum"
        )
        self._downloaded = Counter("precipiq_export_downloads", "downloads with an entry", registry=registry)
        self._sent = Counter("precipiq_export_download_bytes", "bytes of bundles sent", registry=registry)

    def count(self, result: str) -> None:
        self._results.labels(result).inc()

    def count_download(self) -> None:
        self._downloaded.inc()

    def count_sent(self, sent_bytes: int) -> None:
        self._sent.inc(sent_bytes)

    @contextmanager
    def count_running(self) -> Iterator[None]:
        """Count an export while the context is entered."""
        self._running.inc()
        try:
            yield
        finally:
            self._running.dec()
