"""Verifies all chains all the time: what is new first, then everything again within a set time, in turns.

Of the processes that share a data folder one sweeps, the others read its record. Nodes do not trust each other's word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from precipiq_chain.verify import GENESIS, INCONSISTENT_WITH_CHECKPOINT, ORG_MISSING, TRUNCATED, Anchor, anchor_at
from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_contracts.entry_store import EntryStore
from precipiq_contracts.ledger import ChainBreak
from precipiq_ledger.heads import heads_of
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.schema_watch import SchemaWatch
from precipiq_ledger.sweep_book import Pass, Swept
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.sweep_limits import SweepLimits
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.sweep_worker import SweepWorker
from precipiq_ledger.verifier import Verifier

log = structlog.get_logger("precipiq.ledger")

_SLICE_ENTRIES = 20_000
_AGAIN_S = 60.0
_AGAIN_SHARE = 10.0
"""How long a chain rests that looks mended and is not: that, and so many times what finding out took."""


class Sweeper:
    """The sweep of one process, into ``integrity``."""

    def __init__(
        self,
        integrity: Integrity,
        store: EntryStore,
        verifier: Verifier,
        file: SweepFile,
        clock: Clock,
        limits: SweepLimits,
        worker: SweepWorker,
        metrics: SweepMetrics,
        schema: SchemaWatch | None = None,
    ) -> None:
        self._integrity = integrity
        self._store = store
        self._verifier = verifier
        self._file = file
        self._clock = clock
        self._limits = limits
        self._worker = worker
        self._metrics = metrics
        self._schema = schema
        self._lock: AsyncExitStack | None = None
        self._failure: Exception | None = None

    @property
    def is_sweeping(self) -> bool:
        """Whether this process is the one that sweeps."""
        return self._lock is not None

    @asynccontextmanager
    async def run(self, background: Background) -> AsyncIterator[None]:
        """Sweep while the context is entered."""
        telling = background(
            "ledger.integrity",
            self._integrity.tell,
            every_s=self._limits.interval_s,
            failing="chains are broken, or were not checked in time",
            again="every chain holds, and was checked in time",
            wake=self._integrity.changed,
            overdue_s=0.0,
        )
        sweeping = background(
            "ledger.sweep",
            self.sweep,
            every_s=self._limits.interval_s,
            failing="the sweep does not go on",
            round_s_max=LONG_ROUND_S_MAX,
            final=self._worker.rest,
        )
        try:
            async with telling, sweeping:
                yield
        finally:
            if self._lock is not None:
                await self._lock.aclose()

    async def sweep(self) -> None:
        """One round: look at every head, check what is new, then go on with the passes. Raises the first error last."""
        if self._lock is None and not await self._begin():
            return
        self._failure = None
        if self._schema is not None:
            await self._try(self._schema.look())
        until_s = self._clock.monotonic_s() + self._limits.interval_s
        known = await asyncio.to_thread(self._verifier.checkpointed_chains)
        unseen = {*self._integrity.book.chains, *known}
        async for chain, head in heads_of(self._store):
            unseen.discard(chain)
            await self._try(self._look(chain, head, is_known=chain in known))
        for chain in unseen:
            await self._try(self._look(chain, None, is_known=chain in known))
        await self._go_on_with_passes(until_s)
        self._integrity.book.written_us = self._clock.now_us()
        self._integrity.show()
        await asyncio.to_thread(self._file.write, self._integrity.book)
        if self._failure is not None:
            raise self._failure

    async def _begin(self) -> bool:
        """Whether this process is the one that sweeps; takes what the record says."""
        async with AsyncExitStack() as lock:  # given back, unless this round takes it for good
            is_mine = lock.enter_context(self._file.locked())
            try:
                book = await asyncio.to_thread(self._file.read)
            except ValueError as error:
                what = "the record of sweeps counts for nothing: all is checked from the start"
                log.critical(what, reason=str(error))
                book = None
            if book is not None:
                self._integrity.replace(book)
            if is_mine:
                self._lock = lock.pop_all()
        return is_mine

    async def _try(self, work: Awaitable[None]) -> bool:
        try:
            await work
        except Exception as error:  # noqa: BLE001  (raised at the round's end)
            self._failure = self._failure or error
            return False
        return True

    async def _look(self, chain: Chain, head: Head | None, *, is_known: bool) -> None:
        """As :meth:`_look_at_news`. What cannot even be read may be a fault: the whole verification tells."""
        try:
            await self._look_at_news(chain, head or await self._store.head(chain), is_known=is_known)
        except Exception:
            swept = self._integrity.book.chains.get(chain)
            verdict = await self._verifier.verify(self._store.auditor(), chain, is_ours=True)
            if verdict.broken is None or swept is None or swept.broken is not None:
                raise
            self._note_broken(chain, swept, verdict.broken)

    async def _look_at_news(self, chain: Chain, head: Head | None, *, is_known: bool) -> None:
        """Check what is new in the chain, and that what was checked is still there."""
        if head is None and not is_known and chain not in self._integrity.book.chains:
            return  # rows that no chain can have
        now_us, now_s = self._clock.now_us(), self._clock.monotonic_s()
        swept = self._integrity.book.chains.setdefault(chain, Swept(now_us, since_s=now_s))
        if swept.broken is not None:
            await self._look_again(chain, swept, head)
        elif head is None:
            if swept.tail.seq or is_known:
                reason = f"all entries of the chain are gone; {swept.tail.seq or 'some'} were there"
                self._note_broken(chain, swept, ChainBreak(1, ORG_MISSING, reason))
        elif (head.seq, head.hash) == (swept.tail.seq, swept.tail.hash):
            swept.tail_us = now_us
        elif head.seq > swept.tail.seq:
            await self._check_tail(chain, swept, head)  # which begins at the hash of what was checked
        elif (fault := await self._fault_at_tail(chain, swept, head)) is not None:
            await self._confirm(chain, swept, fault)

    async def _fault_at_tail(self, chain: Chain, swept: Swept, head: Head) -> ChainBreak | None:
        """Whether the chain still has the entry up to which it was checked."""
        tail = swept.tail
        if not tail.seq:
            return None
        stored = await self._hash_at(chain, tail.seq)
        if stored == tail.hash:
            return None
        seen = f"the sweep of {format_timestamp(swept.tail_us)}" if swept.tail_us else "the sweep"
        if stored is None and head.seq < tail.seq:
            reason = f"{seen} saw entry {tail.seq}, but the chain ends at {head.seq}: cut, or an old copy restored"
            return ChainBreak(head.seq + 1, TRUNCATED, reason)
        reason = f"{seen} saw another entry {tail.seq}: the chain was rewritten at or before it"
        return ChainBreak(tail.seq, INCONSISTENT_WITH_CHECKPOINT, reason)

    async def _hash_at(self, chain: Chain, seq: int) -> str | None:
        """Through the store's own connections, where the row can be read: an auditor opens one for each question."""
        try:
            entries = await self._store.read(chain, seq - 1, 1)
        except Exception:  # noqa: BLE001  (a damaged row fails in any way; the auditor reads what is left)
            (stored,) = await asyncio.to_thread(self._store.auditor().hashes_at, chain, [seq])
            return stored
        return entries[0].hash if entries and entries[0].seq == seq else None

    async def _check_tail(self, chain: Chain, swept: Swept, head: Head) -> None:
        began_us, through_seq = self._clock.now_us(), head.seq
        begins_at_start = not swept.tail.seq and through_seq <= self._limits.newest_entries
        if not swept.tail.seq and not begins_at_start:
            # The newest part first: the pass over the whole chain is due at once.
            before = through_seq - self._limits.newest_entries
            newest = await asyncio.to_thread(anchor_at, self._store.auditor(), chain, before)
            swept.tail = newest or GENESIS
        while swept.tail.seq < through_seq:
            last = min(through_seq, swept.tail.seq + _SLICE_ENTRIES)
            broken, end = await self._check(chain, swept.tail, last)
            if broken is not None:
                fault = await self._fault_at_tail(chain, swept, head)
                await self._confirm(chain, swept, fault or broken)
                return
            swept.tail = end
        swept.tail_us = self._clock.now_us()
        if begins_at_start:
            tail = swept.tail
            await self._end_pass(chain, swept, Pass(began_us, swept.tail_us, tail.seq, tail.seq, tail.hash))

    async def _confirm(self, chain: Chain, swept: Swept, fault: ChainBreak) -> None:
        """Let the whole verification find the first fault, which may lie before what the sweep saw."""
        verdict = await self._verifier.verify(self._store.auditor(), chain, is_ours=True)
        self._note_broken(chain, swept, verdict.broken or fault)

    async def _look_again(self, chain: Chain, swept: Swept, head: Head | None) -> None:
        """Whether the fault is gone, since somebody repaired the chain; then all of it is checked again."""
        assert swept.broken is not None
        now_s = self._clock.monotonic_s()
        if head is None or now_s < swept.again_s or not await self._is_mended(chain, swept, swept.broken.seq):
            return
        verdict = await self._verifier.verify(self._store.auditor(), chain, is_ours=True)
        if verdict.broken is not None or not verdict.checked_count:
            swept.again_s = now_s + max(_AGAIN_S, _AGAIN_SHARE * (self._clock.monotonic_s() - now_s))
            return
        swept.broken, swept.broken_us, swept.last = None, 0, None
        swept.at, swept.began_us, swept.since_s = GENESIS, 0, self._clock.monotonic_s()
        self._integrity.announce(chain, None)

    async def _is_mended(self, chain: Chain, swept: Swept, seq: int) -> bool:
        """Whether the entry at the fault holds where it stands, and so does the newest that was checked."""
        auditor, tail = self._store.auditor(), swept.tail
        if tail.seq and await self._hash_at(chain, tail.seq) != tail.hash:
            return False
        before = GENESIS if seq <= 1 else await asyncio.to_thread(anchor_at, auditor, chain, seq - 1)
        if before is None:
            return False
        broken, _ = await self._check(chain, before, seq)
        return broken is None or seq > tail.seq

    async def _go_on_with_passes(self, until_s: float) -> None:
        """Check everything again, a slice of each due chain in turns, until that time or until nothing is due."""
        book, failed = self._integrity.book, set[Chain]()
        while due := [
            chain for chain in book.due(self._clock.monotonic_s(), self._limits.within_s) if chain not in failed
        ]:
            for chain in due:
                if not await self._try(self._go_on_with_pass(chain, book.chains[chain])):
                    failed.add(chain)  # until the next round: the others go on
                if self._clock.monotonic_s() >= until_s:
                    return
        await self._worker.rest()

    async def _go_on_with_pass(self, chain: Chain, swept: Swept) -> None:
        if not swept.began_us:
            swept.began_us, swept.at = self._clock.now_us(), GENESIS
        broken, swept.at = await self._check(chain, swept.at, min(swept.tail.seq, swept.at.seq + _SLICE_ENTRIES))
        if broken is None and swept.at.seq == swept.tail.seq and swept.at.hash != swept.tail.hash:
            reason = f"the sweep saw another entry {swept.at.seq}: the chain was rewritten at or before it"
            broken = ChainBreak(swept.at.seq, INCONSISTENT_WITH_CHECKPOINT, reason)
        if broken is not None:
            await self._confirm(chain, swept, broken)
        elif swept.at.seq >= swept.tail.seq:
            at = swept.at
            await self._end_pass(chain, swept, Pass(swept.began_us, self._clock.now_us(), at.seq, at.seq, at.hash))

    async def _end_pass(self, chain: Chain, swept: Swept, done: Pass) -> None:
        """Compare with the checkpoints, then put the pass on record."""
        compared = await self._verifier.compare_with_checkpoints(self._store.auditor(), chain, done.seq)
        swept.began_us, swept.at = 0, GENESIS
        if compared.comparison.broken is not None:
            await self._confirm(chain, swept, compared.comparison.broken)
            return
        swept.compared, swept.exempt_through = compared, (await self._verifier.check_of(chain)).exempt_through
        swept.since_s = self._clock.monotonic_s() - (done.ended_us - done.began_us) / 1e6
        swept.last = done
        self._integrity.note_graded(chain, swept)
        self._metrics.passes.inc()

    async def _check(self, chain: Chain, after: Anchor, through_seq: int) -> tuple[ChainBreak | None, Anchor]:
        """Check a stretch, then be quiet for so long that no more than the share of a core is used."""
        macs = await self._verifier.check_of(chain)
        checked = await self._worker.check(chain, after, through_seq, macs)
        self._metrics.entries.inc(checked.stretch.checked_count)
        self._metrics.cpu_s.inc(checked.cpu_s)
        await asyncio.sleep(checked.cpu_s * (1 / self._limits.cpu_share - 1))
        return checked.stretch.broken, checked.stretch.last

    def _note_broken(self, chain: Chain, swept: Swept, broken: ChainBreak) -> None:
        swept.broken, swept.broken_us = broken, self._clock.now_us()
        self._integrity.announce(chain, broken)
