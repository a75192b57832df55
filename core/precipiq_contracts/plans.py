"""The limits of an organisation's plan, for a deployment that charges its own tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """Bounds of one organisation, each at least 1. None: the deployment's own setting applies.

    ``*_per_second_max``: requests in each environment. ``streams_max``: open streams in each process.
    ``open_exports_max``: exports that wait or run. ``stored_bytes_max``: statements and payloads of each environment.
    """

    writes_per_second_max: int | None = None
    batches_per_second_max: int | None = None
    reads_per_second_max: int | None = None
    streams_max: int | None = None
    open_exports_max: int | None = None
    stored_bytes_max: int | None = None


NO_LIMITS = PlanLimits()


class Plans(Protocol):
    """Capability: organisations' plans. Plugins that enforce them declare it ``optional``, and call it each time."""

    def limits_of(self, org_id: str) -> PlanLimits:
        """The limits that apply now. MUST NOT raise or wait: every request calls it."""
        ...
