"""Keeps the sums of a chain up to date: a follower, and the wait by which a read sees every write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from precipiq_chain.chain_format import parse_json, parse_statement, split_payload, statement_kind
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import Conflict, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_core.entry_pages import read_page
from precipiq_outcomes import kinds
from precipiq_outcomes.fold import Fold, FoldedEntry, Money
from precipiq_outcomes.links import Link
from precipiq_outcomes.projection_store import ASIDE_CURSOR, LINKS_CURSOR, ProjectionStore
from precipiq_outcomes.set_aside import SetAside

_BATCH_BYTES_MAX = 8 * 1024 * 1024
_FOLDED = frozenset(
    (
        kinds.DECISION,
        kinds.LINK,
        kinds.LINK_CONFIRMED,
        kinds.LINK_REJECTED,
        kinds.LINK_DELETED,
        kinds.LIABILITY_ESTIMATE,
        kinds.REDACTION,
    )
)


class Projection:
    """The follower ``outcomes``. ``batch_entries``: of one transaction; ``wait_s``: the longest wait of a read."""

    name = "outcomes"

    def __init__(
        self,
        store: ProjectionStore,
        ledger: Ledger,
        clock: Clock,
        set_aside: SetAside,
        *,
        batch_entries: int,
        wait_s: float,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._set_aside = set_aside
        self._batch_entries = batch_entries
        self._wait_s = wait_s

    async def catch_up(self, chain: Chain) -> None:
        """See ``Follower.catch_up``."""
        await self._advance(chain, None)

    async def current(self, chain: Chain) -> None:
        """Wait until the projection has all entries that the chain holds now.

        Raises ``Unavailable`` when that takes longer than ``wait_s``; the projection goes on.
        """
        head = await self._ledger.head(chain)
        if head is not None:
            await self._advance(chain, head.seq)

    async def rebuild(self, chain: Chain) -> None:
        """Forget the sums and take the whole chain in again."""
        await self._store.forget(chain)
        await self._advance(chain, None)

    async def rebuild_aside(self, chain: Chain, through_seq: int) -> Mapping[str, Sequence[tuple[object, ...]]]:
        """The rows of :meth:`ProjectionStore.snapshot` as entries up to ``through_seq`` make them; the sums stay.

        They are made under a name of no chain, and no cursor or stale estimate shows them to the workers.
        """
        aside = Chain(f"{chain.org_id}{_ASIDE}", chain.environment)
        await self._store.forget_aside(aside)
        try:
            cursor = 0
            while cursor < through_seq:
                entries = await self._read(chain, cursor, min(self._batch_entries, through_seq - cursor))
                if not entries:
                    break
                cursor = await self._take(aside, cursor, entries, ASIDE_CURSOR)
            return (await self._store.snapshot(aside, ASIDE_CURSOR))[1]
        finally:
            await asyncio.shield(self._store.forget_aside(aside))

    async def _advance(self, chain: Chain, through_seq: int | None) -> None:
        deadline_s = self._clock.monotonic_s() + self._wait_s
        cursor = await self._store.cursor(chain, LINKS_CURSOR)
        while through_seq is None or cursor < through_seq:
            if through_seq is not None and self._clock.monotonic_s() > deadline_s:
                raise Unavailable(
                    f"{through_seq - cursor} entries are still being taken in; try again", retry_after_s=5
                )
            entries = await self._read(chain, cursor, self._batch_entries)
            if not entries:
                return
            try:
                cursor = await self._take(chain, cursor, entries)
            except Conflict:
                cursor = await self._store.cursor(chain, LINKS_CURSOR)  # another process was faster
            await asyncio.sleep(0)

    async def _read(self, chain: Chain, cursor: int, limit: int) -> Sequence[Entry]:
        entries, _ = await read_page(partial(self._ledger.read, chain), cursor, limit, _BATCH_BYTES_MAX)
        return entries

    async def _take(self, chain: Chain, cursor: int, entries: Sequence[Entry], cursor_name: str = LINKS_CURSOR) -> int:
        is_long = len(entries) > _INLINE_MAX
        folded, unread = await asyncio.to_thread(_read, entries) if is_long else _read(entries)
        fold = Fold(await self._links_around(chain, folded))
        changes = await asyncio.to_thread(fold.take, folded) if is_long else fold.take(folded)
        for seq, error in (*unread, *fold.refused):
            self._set_aside.note("projection", chain, error, seq=seq)
        money = await self._store.money_at(chain, changes.money) if changes.money else {}
        for key, change in changes.money.items():
            before = money.get(key, Money())
            money[key] = Money(
                before.amount + change.amount, before.events + change.events, before.links + change.links
            )
        if cursor_name == ASIDE_CURSOR:
            changes.stale.clear()
        await self._store.apply(chain, cursor, entries[-1].seq, changes, money, cursor_name)
        return entries[-1].seq

    async def _links_around(self, chain: Chain, entries: Sequence[FoldedEntry]) -> list[Link]:
        """The links of every decision and event that these entries touch."""
        bodies = [entry.statement.body for entry in entries if entry.statement.kind in _LINK_KINDS]
        decisions = {str(body.get("decision_id")) for body in bodies}
        events = {str(body.get("financial_event_id")) for body in bodies}
        links = {str(body["link_id"]) for body in bodies if "link_id" in body}
        return await self._store.links_of(chain, links, decisions, events)


_ASIDE = "~aside"
"""What no id of an organisation ends with."""
_INLINE_MAX = 50
_LINK_KINDS = frozenset((kinds.LINK, kinds.LINK_CONFIRMED, kinds.LINK_REJECTED, kinds.LINK_DELETED))


def _read(entries: Sequence[Entry]) -> tuple[list[FoldedEntry], list[tuple[int, Exception]]]:
    """The entries that count, parsed; and the seqs of those that cannot be, which only an intruder can have written."""
    found: list[FoldedEntry] = []
    unread: list[tuple[int, Exception]] = []
    for entry in entries:
        try:
            kind = statement_kind(entry.statement)
            if kind in _FOLDED:
                notes = notes_in(entry) if kind == kinds.LINK else None
                found.append(FoldedEntry(parse_statement(entry.statement), notes))
        except Exception as error:  # noqa: BLE001  (one entry must not end the sums of its chain)
            unread.append((entry.seq, error))
    return found, unread


def notes_in(entry: Entry) -> str | None:
    """The notes of a link; None when they were erased."""
    if entry.payload is None:
        return None
    payload = parse_json(split_payload(entry.payload)[0])
    notes = payload.get("notes") if isinstance(payload, dict) else None
    return notes if isinstance(notes, str) else None
