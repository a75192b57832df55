"""How many exports an organisation's plan lets it have open, in place of the deployment's setting."""

from __future__ import annotations

from typing import Any

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.plans import NO_LIMITS, PlanLimits, Plans
from precipiq_exports.errors import TooManyExports
from precipiq_exports.jobs import Job, Request
from precipiq_exports.plugin import ExportsPlugin
from precipiq_exports.service import ExportService, ServiceLimits
from precipiq_testkit.clock import ManualClock, SeededRandomness

pytestmark = pytest.mark.anyio

LIMITS = ServiceLimits(open_per_organisation_max=2, downloads_max=1, lease_s=10)


class SomePlans:
    """The plans of a few organisations."""

    def __init__(self, **limits: PlanLimits) -> None:
        self.limits = limits

    def limits_of(self, org_id: str) -> PlanLimits:
        return self.limits.get(org_id, NO_LIMITS)


class NoEvents:
    """An outbox that is always empty."""

    async def deliver(self, ledger: object) -> None:
        return


class CountingStore:
    """Keeps open exports by organisation, within the bound that it is told."""

    def __init__(self) -> None:
        self.events = NoEvents()
        self.jobs: list[Job] = []

    async def add(self, job: Job, key: str | None, event: object, *, open_max: int) -> bool:
        if sum(other.chain.org_id == job.chain.org_id for other in self.jobs) >= open_max:
            return False
        self.jobs.append(job)
        return True

    async def add_leased(self, job: Job, event: object, owner: str, until_us: int, *, open_max: int) -> bool:
        return await self.add(job, None, event, open_max=open_max)

    async def get(self, chain: Chain, export_id: str) -> Job | None:
        return next((job for job in self.jobs if job.export_id == export_id), None)


def service(plans: Plans | None) -> ExportService:
    store: Any = CountingStore()
    nothing: Any = None
    return ExportService(store, nothing, nothing, ManualClock(), SeededRandomness(), LIMITS, plans)


async def opened(exports: ExportService, org_id: str, *, leased: bool = False, tries: int = 10) -> int:
    """How many of so many requests are taken."""
    chain = Chain(org_id, "test")
    for count in range(tries):
        try:
            if leased:
                await exports.request_leased(chain, Request(), "key_1", "owner")
            else:
                await exports.request(chain, Request(), "key_1")
        except TooManyExports:
            return count
    return tries


@pytest.mark.parametrize("leased", [False, True])
@pytest.mark.parametrize(("open_exports_max", "expected"), [(1, 1), (4, 4), (None, 2)])
async def test_the_plan_comes_before_the_setting(leased: bool, open_exports_max: int | None, expected: int) -> None:
    exports = service(SomePlans(org_a=PlanLimits(open_exports_max=open_exports_max)))
    assert await opened(exports, "org_a", leased=leased) == expected
    assert await opened(exports, "org_b", leased=leased) == 2
    assert await opened(service(None), "org_a", leased=leased) == 2


def test_the_plugin_asks_for_plans_and_does_without() -> None:
    assert Plans in ExportsPlugin.optional
