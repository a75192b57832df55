"""What a worker cannot take in: it is counted and logged, and the worker goes on with the rest."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry, Counter

from precipiq_contracts.chain import Chain

log = structlog.get_logger("precipiq.outcomes")


class SetAside:
    """One for all workers of an application, with the metric ``precipiq_outcomes_set_aside_total``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "precipiq_outcomes_set_aside",
            "entries that a worker could not take in and passed over",
            ("worker",),
            registry=registry,
        )
        for worker in ("projection", "correlator", "estimator"):
            self._count.labels(worker)

    def note(self, worker: str, chain: Chain, error: Exception, **what: object) -> None:
        """``worker`` passed over one entry of that chain. ``what``: names the entry, such as ``seq=5``."""
        self._count.labels(worker).inc()
        log.error(
            "an entry cannot be taken in; it is set aside",
            worker=worker,
            org_id=chain.org_id,
            environment=chain.environment,
            error=type(error).__name__,
            exc_info=error,
            **what,
        )
