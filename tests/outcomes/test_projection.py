"""What entries add up to does not depend on how they were taken in, by whom, or how often."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from precipiq_contracts.chain import Draft
from precipiq_contracts.errors import Conflict, PrecipiqError, Unavailable
from precipiq_outcomes.analytics import Range
from precipiq_outcomes.fold import Changes, Group
from precipiq_outcomes.pages import Page
from precipiq_outcomes.projection import _ReadAhead
from precipiq_outcomes.projection_store import LINKS_CURSOR
from precipiq_outcomes.service import NewLink
from tests.effort import rounds
from tests.outcomes.conftest import Outcomes

pytestmark = pytest.mark.anyio


async def fill(outcomes: Outcomes, chance: random.Random) -> None:
    decisions = [
        await outcomes.decide(f"agent {number % 3}", confidence=chance.random(), human_in_loop=chance.random() < 0.5)
        for number in range(20)
    ]
    events = [
        await outcomes.pay(
            f"{chance.randrange(-99999, 99999) / 100:.2f}",
            currency=chance.choice(["USD", "EUR"]),
            occurred_at=f"2026-0{chance.randrange(1, 9)}-1{chance.randrange(10)}T00:00:00.000000Z",
        )
        for _ in range(12)
    ]
    made = []
    for number in range(45):
        link = NewLink(
            chance.choice(decisions),
            chance.choice(events),
            chance.random(),
            "ml_suggested" if number % 4 == 0 else "manual",
            chance.choice(["revenue", "cost", "liability", "neutral"]),
            f"note {number}",
            is_suggestion=number % 4 == 0,
        )
        with suppress(PrecipiqError):
            made.append((await outcomes.service.create(outcomes.chain, link, "key"))[0].link_id)
        doing = chance.choice(["delete", "confirm", "reject", "nothing"])
        if doing != "nothing":
            with suppress(PrecipiqError):
                await getattr(outcomes.service, doing)(outcomes.chain, chance.choice(made), "key")
    await outcomes.ledger.redact(outcomes.chain, made[0], "link", "asked for", "key")


@pytest.mark.parametrize("seed", range(rounds(1, long=3)))
async def test_any_batches_and_several_who_take_in_end_alike(outcomes: Outcomes, seed: int) -> None:
    await fill(outcomes, random.Random(seed))
    chain = outcomes.chain
    await outcomes.projection.catch_up(chain)
    kept = await outcomes.store.dump(chain)
    assert len(kept["outcome_links"]) > 10
    assert len(kept["outcome_money"]) > 10
    for batch_entries in (1, 7, 500):
        other = replace(outcomes, chain=chain, batch_entries=batch_entries)
        await other.projection.rebuild(chain)
        assert await other.store.dump(chain) == kept, batch_entries
    await outcomes.store.forget(chain)
    several = [replace(outcomes, chain=chain, batch_entries=size) for size in (3, 5, 11)]
    await asyncio.gather(*(one.projection.catch_up(chain) for one in several))
    assert await outcomes.store.dump(chain) == kept


async def test_an_entry_that_no_server_wrote_changes_nothing(outcomes: Outcomes) -> None:
    chain = outcomes.chain
    bodies: Sequence[dict[str, object]] = ({}, {"link_id": "x"}, {"decision_id": 5}, {"amount": "x", "score": []})
    for kind in ("link", "link_deleted", "liability_estimate", "decision"):
        for body in bodies:
            await outcomes.ledger.append(chain, [Draft(kind, "key", body, {"notes": 5} if kind == "link" else None)])
    await outcomes.projection.catch_up(chain)
    dump = await outcomes.store.dump(chain)
    assert {table: rows for table, rows in dump.items() if rows} == {}
    await outcomes.decide()
    await outcomes.projection.current(chain)
    assert len((await outcomes.store.dump(chain))["outcome_groups"]) == 1


async def test_a_cursor_moves_once(outcomes: Outcomes) -> None:
    await outcomes.store.move_cursor(outcomes.chain, "x", 0, 5)
    with pytest.raises(Conflict):
        await outcomes.store.move_cursor(outcomes.chain, "x", 0, 7)
    assert await outcomes.store.cursor(outcomes.chain, "x") == 5


async def test_a_batch_that_cannot_be_stored_moves_no_cursor(outcomes: Outcomes) -> None:
    group = Group("agent", "email_send", False, False)
    changes = Changes(decisions=[(5, group.group_id)], groups={"": group._replace(agent_id=None)})  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        await outcomes.store.apply(outcomes.chain, 0, 2, changes, {})
    assert await outcomes.store.cursor(outcomes.chain, LINKS_CURSOR) == 0
    assert {table: rows for table, rows in (await outcomes.store.dump(outcomes.chain)).items() if rows} == {}


async def test_what_was_read_ahead_is_taken_in_order_or_left() -> None:
    asked: list[int] = []

    async def read(cursor: int) -> tuple[Page, int, int]:
        asked.append(cursor)
        if cursor == 13:
            await asyncio.Event().wait()
        return Page(), cursor + 1, 1

    async with _ReadAhead(read) as pages:
        pages.begin(7)
        assert await pages.after(7) == (Page(), 8, 1)
        pages.begin(8)
        assert await pages.after(12) == (Page(), 13, 1), "another process has taken in what was read ahead"
        assert (asked, pages._begun) == ([7, 12], None)
        pages.begin(13)
    assert pages._begun is None, "nothing reads on that nobody waits for"


async def test_a_read_does_not_wait_for_ever(outcomes: Outcomes) -> None:
    for _ in range(30):
        await outcomes.decide()
    slow = replace(outcomes, chain=outcomes.chain, batch_entries=10)
    slow.projection._wait_s = 0
    with pytest.raises(Unavailable, match="entries are still being taken in"):
        await slow.projection.current(outcomes.chain)
    await outcomes.projection.current(outcomes.chain)


async def test_less_than_a_day_counts_an_event_of_several_agents_once(outcomes: Outcomes) -> None:
    event = await outcomes.pay("10.00")
    for agent_id in ("one", "another"):
        link = NewLink(await outcomes.decide(agent_id), event, 1, "manual", "revenue", None)
        await outcomes.service.create(outcomes.chain, link, "key")
    now_us, hour_us = outcomes.clock.now_us(), 3600 * 1_000_000
    around = Range(now_us - hour_us, now_us + hour_us)
    found = await outcomes.analytics.profit_and_loss(outcomes.chain, around, "USD")
    assert (found["total_revenue_attributed"], found["link_count"]) == ("10.00", 2)
    assert [agent["net_impact"] for agent in found["top_agents"]] == ["10.00", "10.00"]
