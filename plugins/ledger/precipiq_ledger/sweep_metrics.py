"""Metrics of the sweep."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from precipiq_ledger.grading import WORST_FIRST
from precipiq_ledger.sweep_book import SweepBook


class SweepMetrics:
    """How much was checked, what that cost, and what was found."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entries = Counter("precipiq_ledger_swept_entries", "entries that the sweep checked", registry=registry)
        self.cpu_s = Counter(
            "precipiq_ledger_sweep_cpu_seconds", "seconds of a core that the sweep used", registry=registry
        )
        self.passes = Counter(
            "precipiq_ledger_sweep_passes", "whole chains that the sweep checked and found whole", registry=registry
        )
        self._broken = Gauge(
            "precipiq_ledger_broken_chains",
            "chains in which a fault was found",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._verdicts = Gauge(
            "precipiq_ledger_verdicts",
            "chains by the sweep's verdict on them",
            ("verdict",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._chains = Gauge(
            "precipiq_ledger_swept_chains",
            "chains that the sweep knows",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._drift = Gauge(
            "precipiq_ledger_schema_drift",
            "objects of the schema that are not as they were recorded",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._rows = Gauge(
            "precipiq_ledger_unannounced_rows",
            "rows that grant something which their chains do not say",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._oldest = Gauge(
            "precipiq_ledger_sweep_oldest_seconds",
            "time since the longest unchecked chain was last checked whole",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def note(self, book: SweepBook, now_s: float, verdicts: Mapping[str, int]) -> None:
        """Show the state of the book at that monotonic time; ``verdicts``: chains by their verdict."""
        for verdict in WORST_FIRST:
            self._verdicts.labels(verdict).set(verdicts.get(verdict, 0))
        self._broken.set(len(book.broken()))
        self._chains.set(len(book.chains))
        self._drift.set(len(book.drift))
        self._rows.set(sum(map(len, book.rows.values())))
        self._oldest.set(max((swept.age_s(now_s) for swept in book.chains.values()), default=0.0))
