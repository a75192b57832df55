"""Durability: what was answered is there after a power cut, whatever of the rest is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from precipiq_contracts.entry_store import Appended, EntryStoreDriver
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    BETA,
    Reopen,
    StoreTests,
    assert_intact,
    read_all,
    require_reopen,
    require_storage,
)
from precipiq_testkit.power_cut import Disk, NotFollowed, follow
from precipiq_testkit.sealing import Writer


class DurabilityTests(StoreTests):
    """The driver runs on while its flushes are followed; then its folder is what a power cut would have left."""

    async def test_an_append_survives_a_power_cut(
        self, driver: EntryStoreDriver, reopen: Reopen | None, storage: Path | None
    ) -> None:
        """``append`` MUST be durable before it returns: to a new chain and to an old one, alone and in a group.

        On failure: is each file flushed (fsync) before the answer, and its folder too when the file is new or was
        renamed? Does a database flush at each commit, not now and then?
        """
        opened = require_reopen(reopen)
        with self.follow_flushes(require_storage(storage)) as disk:
            async with driver.open() as store:
                writer = Writer(store)
                await writer.append(ALPHA, writer.draft(key="first"), writer.draft())
                await self.run_together(*[lambda: writer.append(BETA)] * 4)
                last = await writer.append(ALPHA, writer.draft(key="last"), writer.draft())
                disk.cut()
                written = {chain: await read_all(store, chain) for chain in (ALPHA, BETA)}
            disk.restore()
        async with opened() as store:
            for chain, entries in written.items():
                assert await read_all(store, chain) == entries, "an acknowledged entry is gone after a power cut"
            again = writer.on(store)
            known = await again.append(ALPHA, again.draft(key="first"), again.draft(key="last"), again.draft())
            assert known.created == (False, False, True)
            assert known.entries[1] == last.entries[0]
            assert_intact(ALPHA, await read_all(store, ALPHA))

    async def test_a_redaction_survives_a_power_cut(
        self, driver: EntryStoreDriver, reopen: Reopen | None, storage: Path | None
    ) -> None:
        """``redact`` MUST be durable before it returns: its entry and that the payload is gone.

        On failure: is what drops the payload flushed too, or only the redaction entry?
        """
        opened = require_reopen(reopen)
        with self.follow_flushes(require_storage(storage)) as disk:
            async with driver.open() as store:
                writer = Writer(store)
                kept, target = await writer.fill(ALPHA, 2)
                redaction = await writer.redact(ALPHA, target)
                disk.cut()
            disk.restore()
        async with opened() as store:
            left = [kept, replace(target, payload=None), redaction]
            assert await read_all(store, ALPHA) == left, "a redaction is gone after a power cut"

    async def test_what_an_append_answered_again_survives_a_power_cut(
        self, driver: EntryStoreDriver, reopen: Reopen | None, storage: Path | None
    ) -> None:
        """A draft with a known key MUST NOT be answered before its entry is durable: its writer may have died before.

        On failure: is a known key answered from what was read, while the append that wrote it still flushes?
        """
        opened = require_reopen(reopen)
        answers: list[Appended] = []
        with self.follow_flushes(require_storage(storage)) as disk:
            async with driver.open() as store:
                writer = Writer(store)

                async def append() -> None:
                    answers.append(await writer.append(ALPHA, writer.draft(key="key")))
                    if len(answers) == 1:
                        disk.cut()

                await self.run_together(*[append] * 8)
            disk.restore()
        async with opened() as store:
            assert await read_all(store, ALPHA) == list(answers[0].entries), "an answered entry is gone"

    @contextmanager
    def follow_flushes(self, storage: Path) -> Iterator[Disk]:
        """The folder of the driver, its flushes followed from now on; skips where that is not possible."""
        try:
            with follow(storage, self.patience_s) as disk:
                yield disk
        except NotFollowed as error:
            pytest.skip(f"this machine does not let system calls be followed: {error}")
