"""What one worker cannot take in is passed over, counted and logged; everybody else's goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from precipiq_contracts.chain import Draft
from precipiq_contracts.errors import Unavailable
from precipiq_outcomes import correlator, estimator
from precipiq_outcomes.service import NewLink
from tests.outcomes.conftest import Outcomes
from tests.outcomes.test_correlation import proposals

pytestmark = pytest.mark.anyio


def count(outcomes: Outcomes, worker: str) -> float | None:
    return outcomes.registry.get_sample_value("precipiq_outcomes_set_aside_total", {"worker": worker})


def failing_once(function: Any, error: Exception) -> Any:
    failures = [error]

    def fail(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return function(*arguments)

    return fail


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError(), KeyError("amount"), MemoryError()])
async def test_an_event_that_cannot_be_scored_ends_no_suggestions(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    decision = await outcomes.decide(metadata={"order": "A-1"})
    odd, plain = [await outcomes.pay(metadata={"order": "A-1"}) for _ in range(2)]
    monkeypatch.setattr(correlator, "_event", failing_once(correlator._event, error))
    with capture_logs() as logs:
        found = await proposals(outcomes)
    assert [link[0] for link in found] == [decision]
    assert await outcomes.links.of_event(outcomes.chain, odd) == []
    assert len(await outcomes.links.of_event(outcomes.chain, plain)) == 1
    assert count(outcomes, "correlator") == 1
    [line] = [line for line in logs if line["event"] == "an entry cannot be taken in; it is set aside"]
    assert (line["worker"], line["org_id"], line["error"]) == (
        "correlator",
        outcomes.chain.org_id,
        type(error).__name__,
    )


async def test_an_event_waits_while_the_ledger_is_away(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    await outcomes.decide(metadata={"order": "A-1"})
    event = await outcomes.pay(metadata={"order": "A-1"})
    monkeypatch.setattr(correlator, "_event", failing_once(correlator._event, Unavailable("away")))
    await outcomes.projection.current(outcomes.chain)
    with pytest.raises(Unavailable):
        await outcomes.correlator.look()
    await proposals(outcomes)
    assert len(await outcomes.links.of_event(outcomes.chain, event)) == 1
    assert count(outcomes, "correlator") == 0


async def test_a_decision_that_cannot_be_estimated_ends_no_estimates(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await outcomes.pay("-5.00", event_type="refund")
    for _ in range(2):
        link = NewLink(await outcomes.decide(), event, 1.0, "explicit", "cost", None)
        await outcomes.service.propose(outcomes.chain, link, "key")
    await outcomes.projection.current(outcomes.chain)
    monkeypatch.setattr(estimator, "group_of", failing_once(estimator.group_of, TypeError("odd")))
    assert await outcomes.estimator.record_stale() == 2
    assert await outcomes.estimator.record_stale() == 0
    assert count(outcomes, "estimator") == 1


async def test_an_entry_that_no_server_wrote_so_ends_no_sums(outcomes: Outcomes) -> None:
    body = {"agent_id": "a", "action_type": "b", "confidence": "high", "human_in_loop": False, "external_id": None}
    await outcomes.ledger.append(outcomes.chain, [Draft("decision", "key", body, {"inputs": {}})])
    await outcomes.decide()
    await outcomes.projection.current(outcomes.chain)
    assert count(outcomes, "projection") == 1
    head = await outcomes.ledger.head(outcomes.chain)
    assert head is not None
    assert await outcomes.store.cursor(outcomes.chain, "links") == head.seq


async def test_an_entry_that_is_no_json_ends_no_sums(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    await outcomes.decide()
    await outcomes.decide()
    statements = outcomes.ledger.statements

    async def with_a_broken_one(*arguments: Any) -> Any:
        found, last_seq = await statements(*arguments)
        return ([found[0][:-1] + b"\xff", *found[1:]] if found else found), last_seq

    monkeypatch.setattr(outcomes.ledger, "statements", with_a_broken_one)
    await outcomes.projection.current(outcomes.chain)
    assert count(outcomes, "projection") == 1


async def test_two_decisions_at_one_time_end_no_sums(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    await outcomes.decide()
    await outcomes.decide()
    statements = outcomes.ledger.statements

    async def with_one_twice(*arguments: Any) -> Any:
        found, last_seq = await statements(*arguments)
        return ([*found[:1], *found[:1], *found[2:]] if found else found), last_seq

    monkeypatch.setattr(outcomes.ledger, "statements", with_one_twice)
    async with asyncio.timeout(20):
        await outcomes.projection.current(outcomes.chain)
    dump = await outcomes.store.dump(outcomes.chain)
    assert [len(dump[table]) for table in ("outcome_decisions", "outcome_groups")] == [1, 1]
