"""Seals: in whatever thread, but one call of a seal at a time, and none once its append has ended."""

from __future__ import annotations

import pytest

from precipiq_contracts.entry_store import EntryStore
from precipiq_testkit.entry_store_suite.support import ALPHA, BETA, StoreTests, assert_intact, read_all
from precipiq_testkit.sealing import SealRefused, WatchedSealer, Writer


class SealTests(StoreTests):
    async def test_a_seal_runs_once_at_a_time(self, store: EntryStore, writer: Writer) -> None:
        """A driver MUST NOT call the seal of one append twice at the same time; in which threads is its own matter.

        On failure: guesses of the head that are sealed side by side: which call is then the last?
        """
        seals: list[WatchedSealer] = []

        async def append(number: int) -> None:
            seals.append(writer.watched_seal(ALPHA))
            key = f"key-{number // 2}"
            await store.append(ALPHA, [writer.draft(), writer.draft(key=key)], seals[-1])

        await self.run_together(*(lambda number=number: append(number) for number in range(16)))
        target = (await read_all(store, ALPHA))[0]
        seals.append(writer.watched_seal(ALPHA))
        await store.redact(ALPHA, target, writer.redaction(target), seals[-1])
        assert [seal.at_once_max for seal in seals] == [1] * 17, "one seal was called twice at the same time"
        assert_intact(ALPHA, await read_all(store, ALPHA))

    async def test_a_seal_is_not_called_once_its_append_has_ended(self, store: EntryStore, writer: Writer) -> None:
        """A driver MUST NOT call a seal once its append has returned or raised: what it sealed would be nobody's.

        On failure: a guess that is still being sealed, or a seal that is kept for the next append?
        """
        seals: list[WatchedSealer] = []

        async def append(number: int) -> None:
            seal = writer.watched_seal(ALPHA)
            seals.append(seal)
            await store.append(ALPHA, [writer.draft(key=f"key-{number // 2}")], seal)
            seal.end()

        async def append_refused() -> None:
            seal = writer.watched_seal(ALPHA, refuses=True)
            seals.append(seal)
            with pytest.raises(SealRefused):
                await store.append(ALPHA, [writer.draft()], seal)
            seal.end()

        for _ in range(3):
            await self.run_together(*(lambda number=number: append(number) for number in range(8)), append_refused)
        await writer.append(ALPHA)
        await writer.append(BETA)
        assert [seal.late_count for seal in seals] == [0] * 27, "a seal was called after its append had ended"
