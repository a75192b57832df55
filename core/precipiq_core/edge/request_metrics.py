"""Prometheus metrics of requests, fed by the request log."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class RequestMetrics:
    """Requests by method, route template and status. Labels are bounded: never a raw path, never a key."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "precipiq_http_requests", "requests answered", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "precipiq_http_request_duration_seconds",
            "time from the request's head to the end of the answer",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one answered request. ``route``: the template, empty when nothing matched."""
        method = method if method in _METHODS else "other"
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._counters[method, route, status] = self._total.labels(method, route, str(status))
        histogram = self._histograms.get((method, route))
        if histogram is None:
            histogram = self._histograms[method, route] = self._seconds.labels(method, route)
        counter.inc()
        histogram.observe(duration_s)
