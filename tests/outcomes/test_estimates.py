"""Liability estimates on record: after a link changed, nightly, each once, and only when the figure is another."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_core.system import SystemClock
from precipiq_outcomes.service import NewLink
from precipiq_testkit.clock import ManualClock
from tests.outcomes.conftest import Outcomes

pytestmark = pytest.mark.anyio


async def recorded(outcomes: Outcomes) -> list[tuple[str, str]]:
    entries = await outcomes.ledger.read(outcomes.chain, 0, 500, "liability_estimate")
    bodies = [parse_statement(entry.statement).body for entry in entries]
    return [(str(body["decision_id"]), str(body["estimated_exposure"])) for body in bodies]


async def estimated(outcomes: Outcomes) -> list[tuple[str, str]]:
    await outcomes.projection.current(outcomes.chain)
    while await outcomes.estimator.record_stale():
        await outcomes.projection.current(outcomes.chain)
    await outcomes.projection.current(outcomes.chain)
    return await recorded(outcomes)


async def test_a_changed_link_has_its_decision_estimated(outcomes: Outcomes) -> None:
    decisions = [await outcomes.decide() for _ in range(5)]
    assert await estimated(outcomes) == []
    cost = NewLink(decisions[0], await outcomes.pay("-5.00"), 1, "manual", "cost", None)
    link, _ = await outcomes.service.create(outcomes.chain, cost, "key")
    first = [(decisions[0], "150.00")]
    assert await estimated(outcomes) == first, "500 x 1 x 1.5 x 1/5"
    revenue = NewLink(decisions[0], await outcomes.pay(), 1, "manual", "revenue", None)
    await outcomes.service.create(outcomes.chain, revenue, "key")
    assert await estimated(outcomes) == first, "the figure is the same: nothing is recorded"
    await outcomes.service.delete(outcomes.chain, link.link_id, "key")
    assert await estimated(outcomes) == [*first, (decisions[0], "75.00")], "0 of 5, but at least 0.10"
    await outcomes.projection.rebuild(outcomes.chain)
    assert await estimated(outcomes) == [*first, (decisions[0], "75.00")]


async def test_every_night_what_changed_without_a_link_is_estimated_anew(outcomes: Outcomes) -> None:
    clock = ManualClock(SystemClock().now_us())
    nightly = replace(outcomes, chain=outcomes.chain, clock=clock)
    decision = await outcomes.decide()
    cost = NewLink(decision, await outcomes.pay("-5.00"), 1, "manual", "cost", None)
    await outcomes.service.create(outcomes.chain, cost, "key")
    assert await estimated(outcomes) == [(decision, "375.00")]
    await nightly.estimator.begin_night()
    assert await estimated(nightly) == [(decision, "375.00")]
    for _ in range(9):
        await outcomes.decide()
    await outcomes.projection.current(outcomes.chain)
    await nightly.estimator.begin_night()
    assert await estimated(nightly) == [(decision, "375.00")], "once a day"
    clock.advance(86_400)
    await nightly.estimator.begin_night()
    assert await estimated(nightly) == [(decision, "375.00"), (decision, "75.00")]


async def test_two_processes_record_an_estimate_once(outcomes: Outcomes) -> None:
    decision = await outcomes.decide()
    beside = replace(outcomes, chain=outcomes.chain)
    cost = NewLink(decision, await outcomes.pay("-5.00"), 1, "manual", "liability", None)
    await outcomes.service.create(outcomes.chain, cost, "key")
    await outcomes.projection.current(outcomes.chain)
    await asyncio.gather(outcomes.estimator.record_stale(), beside.estimator.record_stale())
    assert len(await estimated(outcomes)) == 1
