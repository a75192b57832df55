"""The driver as a whole: what it declares, what survives its closing, and several stores on one data."""

from __future__ import annotations

from precipiq_chain.chain_format import head_of
from precipiq_contracts.entry_store import MULTI_WRITER, Appended, EntryStore, EntryStoreDriver
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    BETA,
    Reopen,
    StoreTests,
    assert_intact,
    read_all,
    require,
    require_reopen,
    seqs,
    take_wake_ups_until,
)
from precipiq_testkit.sealing import Writer


class OpenTests(StoreTests):
    async def test_the_driver_says_what_it_is(self, driver: EntryStoreDriver) -> None:
        """A driver MUST have a name and declare its capabilities as a frozenset of texts.

        On failure: are both plain attributes that can be read before the store is open?
        """
        assert isinstance(driver.name, str)
        assert driver.name
        assert isinstance(driver.capabilities, frozenset)
        assert all(isinstance(capability, str) for capability in driver.capabilities)

    async def test_an_open_store_answers_a_ping(self, store: EntryStore) -> None:
        """``ping`` MUST return while the store can serve.

        On failure: does it need an entry, or a table that is made later?
        """
        await store.ping()

    async def test_entries_survive_closing_and_opening(self, driver: EntryStoreDriver, reopen: Reopen | None) -> None:
        """What was appended or erased MUST be the same after the store was closed and opened again.

        On failure: something that is written when closing, or kept in memory only: head, keys, erasures.
        """
        opened = require_reopen(reopen)
        async with driver.open() as store:
            writer = Writer(store)
            first = (await writer.append(ALPHA, writer.draft(key="key"), writer.draft())).entries
            await writer.redact(ALPHA, first[1])
            before = await read_all(store, ALPHA)
        async with opened() as store:
            again = writer.on(store)
            assert await read_all(store, ALPHA) == before
            assert await store.head(ALPHA) == head_of(before[-1])
            assert [chain async for chain in store.chains()] == [ALPHA]
            known = await again.append(ALPHA, again.draft(key="key"), again.draft("later"))
            assert known.created == (False, True)
            assert_intact(ALPHA, await read_all(store, ALPHA))

    async def test_two_stores_append_to_one_chain(self, driver: EntryStoreDriver, reopen: Reopen | None) -> None:
        """With ``multi_writer``, appends through several stores MUST make one chain, and each sees the other's at once.

        On failure: a lock, a head or a set of known keys that only one store's process knows.
        """
        require(driver, MULTI_WRITER)
        async with driver.open() as one, (reopen or driver.open)() as two:
            writers = [Writer(one, seed=1), Writer(two, seed=2)]

            async def append(number: int) -> Appended:
                writer = writers[number % 2]
                appended = await writer.append(ALPHA, writer.draft(), writer.draft(key=f"key-{number // 4}"))
                head = await writers[1 - number % 2].store.head(ALPHA)
                assert head is not None
                assert head.seq >= max(seqs(appended.entries)), "the other store does not see it yet"
                return appended

            answers = await self.run_together(*(lambda number=number: append(number) for number in range(64)))
            entries = await read_all(one, ALPHA)
            assert_intact(ALPHA, entries)
            assert await read_all(two, ALPHA) == entries
            assert sum(answer.created[1] for answer in answers) == 16
            assert len(entries) == 64 + 16

    async def test_an_append_wakes_the_watchers_of_every_store(
        self, driver: EntryStoreDriver, reopen: Reopen | None
    ) -> None:
        """With ``multi_writer``, an append through one store MUST wake those who watch through another.

        On failure: wake-ups that stay within a process.
        """
        require(driver, MULTI_WRITER)
        async with driver.open() as one, (reopen or driver.open)() as two:
            writer = Writer(one)
            with self.patience("a wake-up from another store"):
                async with two.watch(ALPHA) as wake_ups:
                    await writer.append(BETA)
                    for seq in range(1, 6):
                        await writer.append(ALPHA)
                        await take_wake_ups_until(two, wake_ups, seq)
