"""Events that must become entries: stored with their change, sealed once and in order, whatever fails in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.database import Database, Migration, Statement
from precipiq_contracts.errors import Conflict, Unavailable, ValidationFailed
from precipiq_core.outbox import Outbox, OutboxEvent
from precipiq_testkit.postgres import PostgresDatabase
from tests.databases import new_database

pytestmark = pytest.mark.anyio

REVISION = '''
"""Notes and their events."""
from alembic import op

revision, down_revision, branch_labels, depends_on = "notes_0001", None, ("notes",), None


def upgrade() -> None:
    op.execute("CREATE TABLE notes (org_id TEXT NOT NULL, text TEXT PRIMARY KEY)")
    op.execute("CREATE TABLE note_events (event_id TEXT PRIMARY KEY, org_id TEXT NOT NULL, environment TEXT NOT NULL, "
               "kind TEXT NOT NULL, actor TEXT NOT NULL, body TEXT NOT NULL)")
'''
CHAIN = Chain("org_alpha", "test")


class FakeLedger:
    """Keeps what it is given, once per idempotency key; ``down_after``: refuses what comes after so many."""

    def __init__(self) -> None:
        self.sealed: dict[str | None, Draft] = {}
        self.down_after = 1000
        self.on_append: Callable[[Chain], object] = lambda chain: None

    async def append(self, chain: Chain, drafts: Sequence[Draft]) -> None:
        self.on_append(chain)
        if len(self.sealed) >= self.down_after:
            raise Unavailable
        for draft in drafts:
            self.sealed.setdefault(draft.idempotency_key, draft)

    def bodies(self) -> list[object]:
        return [draft.body["number"] for draft in self.sealed.values()]


@pytest.fixture
def settings(database: str, request: pytest.FixtureRequest) -> dict[str, object]:
    if database == "sqlite":
        return {"migrate_at_start": True}
    postgres: PostgresDatabase = request.getfixturevalue("postgres")
    return postgres.settings()


@pytest.fixture
async def opened(settings: dict[str, object], tmp_path: Path) -> AsyncIterator[Database]:
    (tmp_path / "revisions").mkdir()
    (tmp_path / "revisions" / "0001_notes.py").write_text(REVISION)
    opened = new_database(settings, tmp_path)
    tables = {"notes": ("org_id", None), "note_events": ("org_id", "environment")}
    async with opened.open([Migration("notes", tmp_path / "revisions", tables)]):
        yield opened


@pytest.fixture
def outbox(opened: Database) -> Outbox:
    return Outbox(opened, "note_events", key_prefix="notes")


def event(number: int) -> OutboxEvent:
    return OutboxEvent(f"event-{number:04}", CHAIN, "note", "key_1", {"number": number, "text": "Zoë 🚀"})


async def test_events_become_entries_in_order_and_are_forgotten(opened: Database, outbox: Outbox) -> None:
    numbers = list(range(150))
    await opened.transaction([outbox.insert(event(number)) for number in reversed(numbers)])
    ledger = FakeLedger()
    await outbox.deliver(ledger)  # type: ignore[arg-type]
    assert ledger.bodies() == numbers
    assert next(iter(ledger.sealed)) == "notes:event-0000"
    assert (await outbox.fetch_waiting(1)) == []


async def test_what_cannot_be_sealed_stays_and_is_told_once(opened: Database, outbox: Outbox) -> None:
    await opened.transaction([outbox.insert(event(number)) for number in range(3)])
    ledger = FakeLedger()
    ledger.down_after = 1
    with structlog.testing.capture_logs() as logs:
        await outbox.deliver(ledger)  # type: ignore[arg-type]
        await outbox.deliver(ledger)  # type: ignore[arg-type]
    assert [line["outbox"] for line in logs] == ["note_events"]
    ledger.down_after = 1000
    await outbox.deliver(ledger)  # type: ignore[arg-type]
    assert ledger.bodies() == [0, 1, 2]


@pytest.mark.parametrize("error", [ValidationFailed("its clock is wrong"), KeyError("unforeseen")], ids=repr)
async def test_a_chain_that_takes_nothing_keeps_no_other_from_it(
    opened: Database, outbox: Outbox, error: Exception
) -> None:
    class Pinned(FakeLedger):
        async def append(self, chain: Chain, drafts: Sequence[Draft]) -> None:
            if chain == CHAIN:
                raise error
            await super().append(chain, drafts)

    other = Chain("org_beta", "test")
    await opened.transaction([outbox.insert(event(number)) for number in range(3)])
    await opened.transaction([outbox.insert(replace(event(number), chain=other)) for number in range(3, 150)])
    ledger = Pinned()
    await outbox.deliver(ledger)  # type: ignore[arg-type]
    assert ledger.bodies() == list(range(3, 150))
    assert [item.event_id for item in await outbox.fetch_waiting(9)] == ["event-0000", "event-0001", "event-0002"]
    ledger = FakeLedger()
    await outbox.deliver(ledger)  # type: ignore[arg-type]
    assert ledger.bodies() == [0, 1, 2]


async def test_a_ledger_that_is_down_is_not_asked_for_every_chain(opened: Database, outbox: Outbox) -> None:
    ledger = FakeLedger()
    ledger.down_after, asked = 0, []
    ledger.on_append = asked.append
    events = [replace(event(number), chain=Chain(f"org_{number}", "test")) for number in range(50)]
    await opened.transaction([outbox.insert(each) for each in events])
    await outbox.deliver(ledger)  # type: ignore[arg-type]
    assert len(asked) == 3
    assert len(await outbox.fetch_waiting(99)) == 50


async def test_an_event_is_stored_with_its_change_or_not_at_all(opened: Database, outbox: Outbox) -> None:
    note = Statement("INSERT INTO notes (org_id, text) VALUES ('org_alpha', :text)", {"text": "a"})
    await opened.transaction([note, outbox.insert(event(1))])
    with pytest.raises(Conflict):
        await opened.transaction([outbox.insert(event(2)), note])
    assert [item.event_id for item in await outbox.fetch_waiting(9)] == ["event-0001"]


async def test_a_condition_decides_and_a_known_id_changes_nothing(opened: Database, outbox: Outbox) -> None:
    if_there = "WHERE EXISTS (SELECT 1 FROM notes WHERE text = :text)"
    insert = outbox.insert(event(1), if_there, {"text": "a"})
    await opened.transaction([insert])
    assert await outbox.fetch_waiting(9) == []
    await opened.transaction([Statement("INSERT INTO notes (org_id, text) VALUES ('org_alpha', 'a')"), insert, insert])
    assert await outbox.fetch_waiting(9) == [event(1)]
