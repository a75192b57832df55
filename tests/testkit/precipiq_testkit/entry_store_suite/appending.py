"""Appending: dense, in order, all or nothing, exact to the byte, whatever else happens at the same time."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from precipiq_chain.chain_format import head_of
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import Appended, EntryQuery, EntryStore
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    ALPHA_TEST,
    BETA,
    StoreTests,
    agents,
    assert_intact,
    read_all,
    seqs,
)
from precipiq_testkit.sealing import DECISION, SealRefused, Writer, entry_id

DIFFICULT_TEXTS = {
    "unicode": "é́ 你好 \U0001f469\U0001f680 \u202eabc \ufeff \ud7ff\ue000",
    "nul and controls": "\x00 \x01 \x1f \x7f \u2028 \\u0000",
    "quotes": "'\"`; -- /* */ %s :name $1 ? {}",
    "200 KiB": "0123456789abcdef" * (200 * 64),
}
DIFFICULT_NUMBERS = {
    "beyond 2^53": 2**53 + 1,
    "beyond 2^63": 2**63 + 1,
    "40 digits": -(10**39) - 7,
    "small": 5e-324,
    "large": 1.7976931348623157e308,
    "exponent": 1e21,
    "fraction": 0.1,
}


class AppendTests(StoreTests):
    async def test_seqs_are_dense_from_one(self, store: EntryStore, writer: Writer) -> None:
        """The entries of a chain MUST have the seqs 1, 2, 3, ... whatever the sizes of the batches.

        On failure: is the seq taken from the entry that ``seal`` returned, or made by the database?
        """
        for count in (1, 3, 1, 40):
            await writer.fill(ALPHA, count)
        assert_intact(ALPHA, await read_all(store, ALPHA))
        assert len(await read_all(store, ALPHA)) == 45

    async def test_entries_keep_the_order_of_their_drafts(self, store: EntryStore, writer: Writer) -> None:
        """``entries[i]`` MUST be the entry of ``drafts[i]``, and the chain MUST have them in that order.

        On failure: does a batched insert return or store its rows in another order?
        """
        names = [f"agent-{number * 7919 % 100:02}" for number in range(100)]
        appended = await writer.append(ALPHA, *(writer.draft(name) for name in names))
        assert agents(appended.entries) == names
        assert appended.created == (True,) * 100
        assert agents(await read_all(store, ALPHA)) == names

    async def test_what_was_sealed_is_stored_and_given_back_byte_for_byte(
        self, store: EntryStore, writer: Writer
    ) -> None:
        """The driver MUST store exactly the entries that ``seal`` returned; every way to read MUST give them back.

        On failure: is the JSON parsed and written again, or the idempotency key or an absent payload lost?
        """
        seal = writer.seal(ALPHA)
        drafts = [writer.draft("a", key="key-a"), writer.draft("b", erasable=False), writer.draft("c")]
        appended = await store.append(ALPHA, drafts, seal)
        assert appended.entries == seal.sealed[-1]
        assert tuple(await read_all(store, ALPHA)) == appended.entries
        for entry in appended.entries:
            assert await store.get(ALPHA, entry_id(entry)) == entry

    async def test_macs_are_stored_and_given_back(self, store: EntryStore, writer: Writer) -> None:
        """The driver MUST give back each entry's MAC, or its absence, by every way that gives the entry.

        On failure: a column that is left out where entries are read, found, replayed, redacted or audited, or text
        that stands for none. An entry without its MAC counts as made by an intruder.
        """
        drafts = [writer.draft("a", key="key-a"), writer.draft("b", key="key-b")]
        with_macs = (await writer.append(ALPHA, *drafts)).entries
        writer.root = None
        without = (await writer.append(ALPHA, writer.draft("c", key="key-c"))).entries
        entries = (*with_macs, *without)
        macs = [entry.mac for entry in entries]
        assert [mac is None for mac in macs] == [False, False, True]
        replayed = await writer.append(ALPHA, *drafts, writer.draft("c", key="key-c"))
        assert [entry.mac for entry in replayed.entries] == macs, "a replayed entry has another MAC"
        assert [entry.mac for entry in await read_all(store, ALPHA)] == macs, "an entry that is read has another MAC"
        for entry in entries:
            got = await store.get(ALPHA, entry_id(entry))
            assert got is not None
            assert got.mac == entry.mac, "an entry got by its id has another MAC"
        page = await store.find(ALPHA, EntryQuery(DECISION), None, 10)
        assert [entry.mac for entry in page.entries] == macs[::-1], "an entry that is found has another MAC"
        batches = list(store.auditor().batches(ALPHA, 0, None, 2))
        assert [mac for batch in batches for mac in batch.macs] == macs, "the audit gives another MAC"

    @pytest.mark.parametrize("text", DIFFICULT_TEXTS.values(), ids=DIFFICULT_TEXTS.keys())
    async def test_texts_are_kept_exactly(self, store: EntryStore, writer: Writer, text: str) -> None:
        """Statement and payload MUST keep their bytes: every character, NUL (written \\u0000 in JSON), any length.

        On failure: a text column that refuses \\u0000, cuts at NUL, normalises Unicode, or limits its length.
        """
        draft = writer.draft(text[:2000], body={"note": text}, payload={"inputs": {text[:100]: text}})
        appended = await writer.append(ALPHA, draft)
        assert tuple(await read_all(store, ALPHA)) == appended.entries
        assert_intact(ALPHA, appended.entries)

    @pytest.mark.parametrize("number", DIFFICULT_NUMBERS.values(), ids=DIFFICULT_NUMBERS.keys())
    async def test_numbers_are_kept_exactly(self, store: EntryStore, writer: Writer, number: float) -> None:
        """Numbers MUST keep every digit, integers beyond 64 bits included.

        On failure: a JSON column that turns numbers into floats or into another notation.
        """
        appended = await writer.append(ALPHA, writer.draft(body={"n": number}, payload={"inputs": {"n": number}}))
        assert tuple(await read_all(store, ALPHA)) == appended.entries
        assert_intact(ALPHA, appended.entries)

    async def test_seal_is_called_with_the_true_head(self, store: EntryStore, writer: Writer) -> None:
        """``seal`` MUST get None on an empty chain and the chain's last entry (seq, hash, timestamp) afterwards.

        On failure: a head that is cached, or read outside the transaction that stores.
        """
        last = None
        for count in (1, 2, 3):
            seal = writer.seal(ALPHA)
            appended = await store.append(ALPHA, [writer.draft() for _ in range(count)], seal)
            assert seal.heads[-1] == last
            last = head_of(appended.entries[-1])

    async def test_head_reflects_every_append_that_has_returned(self, store: EntryStore, writer: Writer) -> None:
        """``head`` MUST be None for an empty chain and never older than an append that has returned.

        On failure: a head that is cached, or read from a snapshot taken before the append was stored.
        """
        assert await store.head(ALPHA) is None

        async def append_and_look() -> None:
            for _ in range(5):
                appended = await writer.append(ALPHA, writer.draft(), writer.draft())
                head = await store.head(ALPHA)
                assert head is not None
                assert head.seq >= appended.entries[-1].seq, "head is older than an append that has returned"

        await self.run_together(*[append_and_look] * 8)
        entries = await read_all(store, ALPHA)
        assert await store.head(ALPHA) == head_of(entries[-1])

    async def test_nothing_is_stored_when_seal_raises(self, store: EntryStore, writer: Writer) -> None:
        """When ``seal`` raises, its error MUST come through and nothing of the batch MUST be stored.

        On failure: is there a transaction around the whole append, and is it rolled back on every error?
        """
        before = await writer.fill(ALPHA, 2)
        drafts = [writer.draft("refused", key="key") for _ in range(3)]
        with pytest.raises(SealRefused):
            await store.append(ALPHA, drafts, writer.refusing_seal(ALPHA))
        assert await read_all(store, ALPHA) == before, "a refused batch left something behind"
        assert await store.head(ALPHA) == head_of(before[-1])
        retried = await writer.append(ALPHA, writer.draft("accepted", key="key"))
        assert (seqs(retried.entries), retried.created) == ([3], (True,)), "a refused draft's key was kept"

    async def test_a_seal_that_raises_fails_its_own_caller_only(self, store: EntryStore, writer: Writer) -> None:
        """Appends that are grouped into one transaction MUST NOT share the error of one of them.

        On failure: is a group's transaction rolled back as a whole, without appending the others again?
        """

        async def append_refused() -> Appended | None:
            with pytest.raises(SealRefused):
                await store.append(ALPHA, [writer.draft("refused")], writer.refusing_seal(ALPHA))
            return None

        async def append_accepted() -> Appended | None:
            return await writer.append(ALPHA, writer.draft("accepted"))

        await self.run_together(*[append_accepted, append_refused] * 12)
        entries = await read_all(store, ALPHA)
        assert agents(entries) == ["accepted"] * 12
        assert_intact(ALPHA, entries)

    async def test_many_writers_neither_fork_a_chain_nor_leave_a_gap(self, store: EntryStore, writer: Writer) -> None:
        """64 appends to one chain at once MUST give one dense chain, each batch in one piece, all of them stored.

        On failure: something may come between reading the head and storing; or an append returned before it was stored.
        """

        async def append(number: int) -> tuple[Entry, ...]:
            size = number % 3 + 1
            return (await writer.append(ALPHA, *(writer.draft(f"{number}-{i}") for i in range(size)))).entries

        batches = await self.run_together(*(lambda number=number: append(number) for number in range(64)))
        entries = await read_all(store, ALPHA)
        assert_intact(ALPHA, entries)
        assert sorted(seqs(entries)) == sorted(seq for batch in batches for seq in seqs(batch))
        for batch in batches:
            first = batch[0].seq
            assert tuple(entries[first - 1 : first - 1 + len(batch)]) == batch, "an acknowledged batch is not as stored"

    async def test_chains_are_counted_and_linked_apart(self, store: EntryStore, writer: Writer) -> None:
        """Every chain MUST have its own seqs and links, when its organisation has others and when all grow at once.

        On failure: a sequence or head that is kept per store or per organisation.
        """
        grown = [ALPHA, ALPHA_TEST, BETA] * 8

        async def append(chain: Chain) -> None:
            await writer.append(chain, writer.draft(), writer.draft())

        await self.run_together(*(lambda chain=chain: append(chain) for chain in grown))
        for chain in (ALPHA, ALPHA_TEST, BETA):
            entries = await read_all(store, chain)
            assert_intact(chain, entries)
            assert len(entries) == 16

    async def test_a_cancelled_append_leaves_a_whole_chain(self, store: EntryStore, writer: Writer) -> None:
        """An append that is cancelled while it waits MUST be stored whole or not at all, and hinder nobody.

        On failure: a lock or connection that a cancelled task never gives back, or a batch stored in part.
        """
        kept: list[Appended] = []

        async def append(number: int) -> None:
            kept.append(await writer.append(ALPHA, *(writer.draft(f"{number}") for _ in range(3))))

        with self.patience("an append after the cancelled ones"):
            async with anyio.create_task_group() as group:
                for number in range(24):
                    group.start_soon(append, number)
                for _ in range(3):
                    await checkpoint()
                group.cancel_scope.cancel()
            kept.append(await writer.append(ALPHA, *(writer.draft("after") for _ in range(3))))
        entries = await read_all(store, ALPHA)
        assert_intact(ALPHA, entries)
        names = agents(entries)
        assert all(names.count(name) == 3 for name in names), "a cancelled batch was stored in part"
        for appended in kept:
            first = appended.entries[0].seq
            assert tuple(entries[first - 1 : first + 2]) == appended.entries, "an acknowledged batch is not as stored"
