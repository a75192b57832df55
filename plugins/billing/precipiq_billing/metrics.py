"""The metrics of Stripe's deliveries."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class DeliveryMetrics:
    """Counts deliveries; ``outcome``: booked, duplicate, not_booked, or refused with a bad signature."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._outcomes = Counter(
            "precipiq_stripe_deliveries", "deliveries of Stripe by what became of them", ["outcome"], registry=registry
        )
        self._unhandled = Counter(
            "precipiq_stripe_unhandled", "events that move money and were not booked", ["type"], registry=registry
        )

    def count(self, outcome: str) -> None:
        self._outcomes.labels(outcome).inc()

    def count_unhandled(self, label: str) -> None:
        """``label``: one of a bounded number, see ``NotBooked``."""
        self._unhandled.labels(label).inc()
