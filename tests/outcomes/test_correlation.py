"""The worker proposes links: scored, explained, once; what was rejected never returns."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from precipiq_outcomes.config import CorrelationConfig
from precipiq_outcomes.errors import LinkConflict, NotASuggestion
from precipiq_outcomes.scoring import Candidate, Money, Weights, score
from precipiq_outcomes.service import NewLink
from tests.outcomes.conftest import Outcomes

pytestmark = pytest.mark.anyio

WEIGHTS = Weights(0.25, 0.45, 0.15, 0.15)
HOUR_US = 3_600_000_000


def scored(
    *, age_us: int = 0, first: Any = None, second: Any = None, content: object = None, answers: tuple[int, int] = (0, 0)
) -> Any:
    candidate = Candidate("d1", 10**15 - age_us, second or {}, content, answers)
    return score(Money(10**15, Decimal("-12.50"), first or {}), candidate, WEIGHTS, 6 * HOUR_US)


def test_each_part_of_a_score_says_what_it_is_of() -> None:
    assert (scored().temporal, scored(age_us=6 * HOUR_US).temporal, scored(age_us=-5).temporal) == (1.0, 0.5, 1.0)
    assert scored(first={"order": "A", "n": 5}, second={"id": "A", "x": ["5", None, True]}).metadata == 1.0
    assert scored(first={"order": "A", "n": 5}, second={"id": "A"}).metadata == 0.5
    assert scored(first={"order": "A"}).metadata == scored(first={"a": None}, second={"b": None}).metadata == 0.0
    assert (scored().prior, scored(answers=(8, 8)).prior, scored(answers=(0, 8)).prior) == (0.5, 0.9, 0.1)
    assert scored(content=[{"price": {"total": 12.5}}]).amount == scored(content="12.50").amount == 1.0
    assert scored(content=[12, True, "x" * 99, None]).amount == 0.5
    everything = scored(first={"o": "A"}, second={"o": "A"}, content=[12.5], answers=(98, 98))
    assert everything.total == round(0.25 + 0.45 + 0.15 * 0.99 + 0.15, 4)
    named = scored(first={"decision_id": "d1"}, age_us=10**12)
    assert (named.total, named.reference) == (1.0, True)
    assert everything.as_json(WEIGHTS)["parts"]["temporal"] == {"score": 1.0, "weight": 0.25}


async def proposals(outcomes: Outcomes) -> list[tuple[str, str, str, float]]:
    await outcomes.projection.current(outcomes.chain)
    while await outcomes.correlator.look():
        pass
    await outcomes.projection.current(outcomes.chain)
    links = await outcomes.links.page(outcomes.chain, {}, None, 100)
    return [(link.decision_id, link.method, link.status, link.strength) for link in reversed(links)]


async def test_bands_decide_between_nothing_a_suggestion_and_a_link(outcomes: Outcomes) -> None:
    same = await outcomes.decide(metadata={"order": "A-1"})
    half = await outcomes.decide(metadata={"order": "A-1", "shop": "x"})
    none = await outcomes.decide(metadata={"order": "B-2"})
    event = await outcomes.pay(metadata={"order": "A-1"})
    found = {decision: (method, status) for decision, method, status, _ in await proposals(outcomes)}
    assert found[same] == ("ml_inferred", "active")
    assert found[half] == ("ml_suggested", "suggested")
    assert found.get(none) in (None, ("ml_suggested", "suggested"))
    links = await outcomes.links.of_event(outcomes.chain, event)
    best = max(links, key=lambda link: link.strength)
    assert best.score is not None
    assert best.strength == best.score["total"]
    assert set(best.score["parts"]) == {"temporal", "metadata", "prior", "amount"}
    weighed = sum(part["score"] * part["weight"] for part in best.score["parts"].values())
    assert round(weighed, 4) == best.score["total"]
    assert (best.link_type, best.is_active) == ("revenue", True)


async def test_an_old_decision_is_found_when_the_event_names_it(outcomes: Outcomes) -> None:
    named = await outcomes.decide()
    tight = replace(outcomes, chain=outcomes.chain, correlation=CorrelationConfig(window_s=60, candidates_max=1))
    for _ in range(3):
        await outcomes.decide()
    await outcomes.pay(
        "-3.00", event_type="refund", metadata={"decision_id": named}, occurred_at="2099-01-01T00:00:00Z"
    )
    assert await proposals(tight) == [(named, "ml_inferred", "active", 1.0)]
    link = (await outcomes.links.page(outcomes.chain, {}, None, 1))[0]
    assert (link.link_type, link.score and link.score["reference"]) == ("cost", True)


async def test_a_rejected_pair_never_returns_and_a_confirmed_one_is_somebodys_own(outcomes: Outcomes) -> None:
    decision = await outcomes.decide(metadata={"order": "A-1", "more": "x"})
    await outcomes.pay(metadata={"order": "A-1"})
    await proposals(outcomes)
    link = (await outcomes.links.page(outcomes.chain, {}, None, 1))[0]
    assert link.status == "suggested"
    rejected = await outcomes.service.reject(outcomes.chain, link.link_id, "key")
    assert (rejected.status, rejected.rejected_us is not None) == ("rejected", True)
    assert (await outcomes.service.reject(outcomes.chain, link.link_id, "key")) == rejected
    with pytest.raises(NotASuggestion):
        await outcomes.service.confirm(outcomes.chain, link.link_id, "key")
    await outcomes.store.move_cursor(
        outcomes.chain, "correlation", await outcomes.store.cursor(outcomes.chain, "correlation"), 0
    )
    assert await proposals(outcomes) == [(decision, "ml_suggested", "rejected", link.strength)]
    other = await outcomes.pay(metadata={"order": "A-1"})
    await proposals(outcomes)
    second = (await outcomes.links.of_event(outcomes.chain, other))[0]
    assert second.score is not None
    assert second.score["parts"]["prior"]["score"] == 0.3333, "one of its agent's links was wrong"
    confirmed = await outcomes.service.confirm(outcomes.chain, second.link_id, "key")
    assert (confirmed.status, confirmed.method) == ("active", "manual")
    assert await outcomes.service.confirm(outcomes.chain, second.link_id, "key") == confirmed
    by_hand = NewLink(decision, link.event_id, 1, "manual", "revenue", None)
    made, is_new = await outcomes.service.create(outcomes.chain, by_hand, "key")
    assert (is_new, made.is_active) == (True, True), "a person may link what the worker's suggestion was rejected for"


async def test_of_two_workers_and_a_person_one_links_the_pair(outcomes: Outcomes) -> None:
    decision = await outcomes.decide(metadata={"order": "A-1"})
    event = await outcomes.pay(metadata={"order": "A-1"})
    beside = replace(outcomes, chain=outcomes.chain)
    await outcomes.projection.current(outcomes.chain)
    by_hand = NewLink(decision, event, 1, "manual", "revenue", None)
    await asyncio.gather(
        outcomes.correlator.look(),
        beside.correlator.look(),
        outcomes.service.create(outcomes.chain, by_hand, "key"),
        return_exceptions=True,
    )
    links = await outcomes.service.page(outcomes.chain, {"decision_id": decision}, None, 10)
    assert len([link for link in links if link.is_active]) == 1


async def test_confirming_and_linking_at_once_leave_one_active_link(outcomes: Outcomes) -> None:
    for _ in range(5):
        decision = await outcomes.decide()
        event = await outcomes.pay()
        made = NewLink(decision, event, 0.5, "ml_suggested", "revenue", None, is_suggestion=True)
        await outcomes.projection.current(outcomes.chain)
        assert await outcomes.service.propose(outcomes.chain, made, "system")
        await outcomes.projection.current(outcomes.chain)
        suggestion = (await outcomes.links.of_event(outcomes.chain, event))[0]
        beside = replace(outcomes, chain=outcomes.chain)
        answers = await asyncio.gather(
            outcomes.service.confirm(outcomes.chain, suggestion.link_id, "key"),
            beside.service.create(outcomes.chain, NewLink(decision, event, 1, "manual", "cost", None), "key"),
            return_exceptions=True,
        )
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert all(isinstance(answer, LinkConflict) for answer in failed), failed
        await outcomes.projection.current(outcomes.chain)
        links = await outcomes.links.of_pair(outcomes.chain, decision, event)
        assert len([link for link in links if link.is_active]) == 1
        assert len(failed) == 1
