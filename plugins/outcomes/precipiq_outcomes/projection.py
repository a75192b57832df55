"""Keeps the sums of a chain up to date: a follower, and the wait by which a read sees every write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from precipiq_chain.chain_format import Statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import Conflict, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_outcomes import kinds
from precipiq_outcomes.fold import Changes, Fold, FoldedEntry, Money
from precipiq_outcomes.links import Link
from precipiq_outcomes.off_loop import off_loop
from precipiq_outcomes.pages import Page, PageParser, read_notes, read_statements
from precipiq_outcomes.projection_store import ASIDE_CURSOR, LINKS_CURSOR, ProjectionStore
from precipiq_outcomes.set_aside import SetAside

_BATCH_BYTES_MAX = 8 * 1024 * 1024

_Read: TypeAlias = tuple[Page, int, int]
"""A page, the seq of its last entry, and the number of its entries; 0 at the chain's end."""


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
        self._parser = PageParser()

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
            cursor, count = 0, 1
            while count and cursor < through_seq:
                limit = min(self._batch_entries, through_seq - cursor)
                page, seq, count = await self._read(chain, cursor, limit)
                await self._take(aside, chain, cursor, seq, page, ASIDE_CURSOR)
                cursor = seq
            return (await self._store.snapshot(aside, ASIDE_CURSOR))[1]
        finally:
            await asyncio.shield(self._store.forget_aside(aside))

    async def _advance(self, chain: Chain, through_seq: int | None) -> None:
        deadline_s = self._clock.monotonic_s() + self._wait_s
        cursor = await self._store.cursor(chain, LINKS_CURSOR)
        async with _ReadAhead(partial(self._read, chain, limit=self._batch_entries)) as pages:
            while through_seq is None or cursor < through_seq:
                if through_seq is not None and self._clock.monotonic_s() > deadline_s:
                    raise Unavailable(
                        f"{through_seq - cursor} entries are still being taken in; try again", retry_after_s=5
                    )
                page, seq, count = await pages.after(cursor)
                if not count:
                    return
                if count == self._batch_entries and (through_seq is None or seq < through_seq):
                    pages.begin(seq)
                try:
                    await self._take(chain, chain, cursor, seq, page, LINKS_CURSOR)
                    cursor = seq
                except Conflict:
                    cursor = await self._store.cursor(chain, LINKS_CURSOR)  # another process was faster
                await asyncio.sleep(0)

    async def _read(self, chain: Chain, cursor: int, limit: int) -> _Read:
        statements, seq = await read_statements(self._ledger, chain, cursor, limit, _BATCH_BYTES_MAX)
        return await off_loop(statements, partial(self._parser.parse, statements, seq)), seq, len(statements)

    async def _take(self, chain: Chain, source: Chain, cursor: int, seq: int, page: Page, cursor_name: str) -> None:
        """Take a page of ``source``, whose last entry is ``seq``, into the sums of ``chain``.

        Raises ``Conflict`` when the cursor has moved.
        """
        size = len(page.decisions) + len(page.statements)
        links = [statement for statement in page.statements if statement.kind == kinds.LINK]
        notes = await read_notes(self._ledger, source, links) if links else {}
        fold = Fold(await self._links_around(chain, page.statements))
        changes = await off_loop(size, partial(_fold, fold, page, notes))
        for refused_seq, error in (*page.unread, *fold.refused):
            self._set_aside.note("projection", chain, error, seq=refused_seq)
        money = await self._store.money_at(chain, changes.money) if changes.money else {}
        for key, change in changes.money.items():
            before = money.get(key, Money())
            money[key] = Money(
                before.amount + change.amount, before.events + change.events, before.links + change.links
            )
        if cursor_name == ASIDE_CURSOR:
            changes.stale.clear()
        await self._store.apply(chain, cursor, seq, changes, money, cursor_name)

    async def _links_around(self, chain: Chain, statements: Sequence[Statement]) -> list[Link]:
        """The links of every decision and event that these statements touch."""
        bodies = [statement.body for statement in statements if statement.kind in _LINK_KINDS]
        decisions = {str(body.get("decision_id")) for body in bodies}
        events = {str(body.get("financial_event_id")) for body in bodies}
        links = {str(body["link_id"]) for body in bodies if "link_id" in body}
        return await self._store.links_of(chain, links, decisions, events)


class _ReadAhead:
    """Reads the next page while the last one is stored. One page ahead at most; none is left behind."""

    def __init__(self, read: Callable[[int], Awaitable[_Read]]) -> None:
        self._read = read
        self._begun: tuple[int, asyncio.Future[_Read]] | None = None

    async def __aenter__(self) -> _ReadAhead:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop()

    def begin(self, cursor: int) -> None:
        """Begin to read the page after that cursor; the page before was taken."""
        self._begun = cursor, asyncio.ensure_future(self._read(cursor))

    async def after(self, cursor: int) -> _Read:
        """The page after that cursor."""
        if self._begun is not None and self._begun[0] == cursor:
            begun, self._begun = self._begun[1], None
            return await begun
        await self._drop()
        return await self._read(cursor)

    async def _drop(self) -> None:
        if self._begun is not None:
            begun, self._begun = self._begun[1], None
            begun.cancel()
            await asyncio.gather(begun, return_exceptions=True)


_ASIDE = "~aside"
"""What no id of an organisation ends with."""
_LINK_KINDS = frozenset((kinds.LINK, kinds.LINK_CONFIRMED, kinds.LINK_REJECTED, kinds.LINK_DELETED))


def _fold(fold: Fold, page: Page, notes: Mapping[int, str | Exception | None]) -> Changes:
    fold.count(page.decisions)
    entries = []
    for statement in page.statements:
        said = notes.get(statement.seq)
        if isinstance(said, Exception):
            page.unread.append((statement.seq, said))
        else:
            entries.append(FoldedEntry(statement, said))
    return fold.take(entries)
