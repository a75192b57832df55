"""Rate limits that an organisation's plan sets, in place of the deployment's."""

from __future__ import annotations

import pytest

from precipiq_auth_keys.plugin import AuthKeysPlugin
from precipiq_auth_keys.rate_limiter import SecondWindows
from precipiq_contracts.auth import RateGroup
from precipiq_contracts.chain import Chain
from precipiq_contracts.plans import NO_LIMITS, PlanLimits, Plans
from precipiq_core.system import SystemClock

pytestmark = pytest.mark.anyio

QUOTAS: dict[RateGroup, int] = {"write": 100, "batch": 10, "read": 1000}


class SomePlans:
    """The plans of a few organisations; they can change."""

    def __init__(self, **limits: PlanLimits) -> None:
        self.limits = limits

    def limits_of(self, org_id: str) -> PlanLimits:
        return self.limits.get(org_id, NO_LIMITS)


async def quotas_of(limiter: SecondWindows, org_id: str) -> dict[RateGroup, int]:
    return {group: (await limiter.hit(Chain(org_id, "test"), group)).quota for group in QUOTAS}


async def test_each_group_has_the_quota_of_the_plan_where_it_sets_one() -> None:
    limiter = SecondWindows(QUOTAS, SystemClock(), plans=SomePlans(org_a=PlanLimits(2, 3, 4), org_b=PlanLimits(2)))
    assert await quotas_of(limiter, "org_a") == {"write": 2, "batch": 3, "read": 4}
    assert await quotas_of(limiter, "org_b") == {**QUOTAS, "write": 2}
    assert await quotas_of(limiter, "org_other") == QUOTAS
    assert await quotas_of(SecondWindows(QUOTAS, SystemClock()), "org_a") == QUOTAS


async def test_the_quota_of_the_plan_is_admitted_and_shown_and_a_new_plan_counts_at_once() -> None:
    plans = SomePlans(org_a=PlanLimits(writes_per_second_max=5))
    limiter = SecondWindows({**QUOTAS, "write": 2}, SystemClock(), plans=plans)
    chain = Chain("org_a", "test")
    states = [await limiter.hit(chain, "write") for _ in range(6)]
    assert [state.remaining for state in states] == [4, 3, 2, 1, 0, 0]
    assert [state.retry_after_s == 0 for state in states] == [True] * 5 + [False]
    plans.limits = {"org_a": PlanLimits(writes_per_second_max=50)}
    state = await limiter.hit(chain, "write")
    assert (state.quota, state.retry_after_s) == (50, 0)


def test_the_plugin_asks_for_plans_and_does_without() -> None:
    assert Plans in AuthKeysPlugin.optional
