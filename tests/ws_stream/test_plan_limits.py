"""How many streams an organisation's plan lets it have open, in place of the deployment's setting."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from precipiq_contracts.errors import RateLimited
from precipiq_contracts.plans import NO_LIMITS, PlanLimits, Plans
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.places import Places
from precipiq_ws_stream.plugin import WsStreamPlugin

CONFIG = WsStreamConfig(connections_per_organisation_max=2)


class SomePlans:
    """The plans of a few organisations; they can change."""

    def __init__(self, **limits: PlanLimits) -> None:
        self.limits = limits

    def limits_of(self, org_id: str) -> PlanLimits:
        return self.limits.get(org_id, NO_LIMITS)


def opened(places: Places, stack: ExitStack, org_id: str, tries: int = 10) -> int:
    """How many of so many more streams get a place; those that do keep it."""
    for count in range(tries):
        try:
            stack.enter_context(places.take("192.0.2.1", org_id))
        except RateLimited:
            return count
    return tries


@pytest.mark.parametrize(("streams_max", "expected"), [(1, 1), (4, 4), (None, 2)])
def test_the_plan_comes_before_the_setting(streams_max: int | None, expected: int) -> None:
    places = Places(None, CONFIG, SomePlans(org_a=PlanLimits(streams_max=streams_max)))  # type: ignore[arg-type]
    with ExitStack() as stack:
        assert opened(places, stack, "org_a") == expected
        assert opened(places, stack, "org_b") == 2
        with pytest.raises(RateLimited, match="of this organisation"), places.take(None, "org_a"):
            pass


def test_a_lower_plan_ends_no_stream_but_lets_no_new_one_in_until_there_is_room() -> None:
    plans = SomePlans(org_a=PlanLimits(streams_max=3))
    places = Places(None, CONFIG, plans)  # type: ignore[arg-type]
    with ExitStack() as stack:
        assert opened(places, stack, "org_a") == 3
        plans.limits = {"org_a": PlanLimits(streams_max=1)}
        assert opened(places, stack, "org_a") == 0
        stack.pop_all().close()
        assert opened(places, stack, "org_a") == 1


def test_the_setting_of_the_whole_process_still_holds() -> None:
    config = WsStreamConfig(connections_max=1)
    places = Places(None, config, SomePlans(org_a=PlanLimits(streams_max=5)))  # type: ignore[arg-type]
    with places.take(None, "org_a"), pytest.raises(RateLimited, match="on this server"), places.take(None, "org_a"):
        pass


def test_the_plugin_asks_for_plans_and_does_without() -> None:
    assert Plans in WsStreamPlugin.optional
