"""Idempotency keys: a known key is answered with the entry that it made, and makes no other."""

from __future__ import annotations

from precipiq_contracts.chain import Entry
from precipiq_contracts.entry_store import Appended, EntryStore
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    ALPHA_TEST,
    BETA,
    StoreTests,
    agents,
    assert_intact,
    read_all,
)
from precipiq_testkit.sealing import Writer


class IdempotencyTests(StoreTests):
    async def test_a_known_key_is_answered_with_the_stored_entry(self, store: EntryStore, writer: Writer) -> None:
        """A draft with a known key MUST be answered with the stored entry, ``created`` False, and add nothing.

        On failure: is the key looked up in this chain before sealing, however many entries came since?
        """
        first = await writer.append(ALPHA, writer.draft("first", key="key"))
        await writer.fill(ALPHA, 5)
        again = await writer.append(ALPHA, writer.draft("second", key="key"))
        assert (again.entries, again.created) == (first.entries, (False,))
        assert len(await read_all(store, ALPHA)) == 6

    async def test_a_key_twice_in_one_batch_makes_one_entry(self, store: EntryStore, writer: Writer) -> None:
        """A key that occurs twice among the drafts MUST count as known the second time.

        On failure: are the batch's own keys looked at, not only the stored ones?
        """
        appended = await writer.append(
            ALPHA, writer.draft("a", key="key"), writer.draft("b"), writer.draft("c", key="key")
        )
        assert appended.created == (True, True, False)
        assert appended.entries[2] == appended.entries[0]
        assert await read_all(store, ALPHA) == list(appended.entries[:2])

    async def test_known_and_new_drafts_mix_in_one_append(self, store: EntryStore, writer: Writer) -> None:
        """Answers MUST stand in the drafts' order, known and new ones mixed.

        On failure: are new entries put together with stored ones by position instead of by draft?
        """
        old = (await writer.append(ALPHA, writer.draft("x", key="x"), writer.draft("y", key="y"))).entries
        mixed = [
            writer.draft("new-1"),
            writer.draft("-", key="y"),
            writer.draft("new-2", key="z"),
            writer.draft("-", key="x"),
        ]
        appended = await writer.append(ALPHA, *mixed)
        assert appended.created == (True, False, True, False)
        assert agents(appended.entries) == ["new-1", "y", "new-2", "x"]
        assert (appended.entries[1], appended.entries[3]) == (old[1], old[0])
        entries = await read_all(store, ALPHA)
        assert agents(entries) == ["x", "y", "new-1", "new-2"]
        assert_intact(ALPHA, entries)

    async def test_seal_sees_only_drafts_that_are_new(self, store: EntryStore, writer: Writer) -> None:
        """The last call of ``seal`` MUST get the new drafts alone, in order; when none is new, no draft at all.

        On failure: are known drafts filtered out before ``seal`` is called?
        """
        await writer.append(ALPHA, writer.draft(key="known"))
        drafts = [writer.draft("a"), writer.draft(key="known"), writer.draft("b", key="b"), writer.draft(key="b")]
        seal = writer.seal(ALPHA)
        await store.append(ALPHA, drafts, seal)
        assert seal.drafts_seen() == [drafts[0], drafts[2]]
        seal = writer.seal(ALPHA)
        await store.append(ALPHA, drafts[1:], seal)
        assert seal.drafts_seen() == []

    async def test_one_key_from_many_tasks_makes_one_entry(self, store: EntryStore, writer: Writer) -> None:
        """Appends with one key at the same time MUST all get one and the same entry; one of them created it.

        On failure: is the key looked up under the chain's lock, and also among those that are grouped with it?
        """

        async def append() -> Appended:
            return await writer.append(ALPHA, writer.draft(key="key"), writer.draft())

        answers = await self.run_together(*[append] * 32)
        assert len({answer.entries[0] for answer in answers}) == 1, "one key made several entries"
        assert sum(answer.created[0] for answer in answers) == 1
        entries = await read_all(store, ALPHA)
        assert len(entries) == 33
        assert_intact(ALPHA, entries)

    async def test_a_key_is_unique_per_chain_and_not_across_chains(self, store: EntryStore, writer: Writer) -> None:
        """The same key in another organisation or environment MUST be new there.

        On failure: is the unique index on (organisation, environment, key)?
        """
        made: list[Entry] = []
        for chain in (ALPHA, ALPHA_TEST, BETA):
            appended = await writer.append(chain, writer.draft(key="key"))
            assert appended.created == (True,), f"a key of another chain counts as known in {chain}"
            made.extend(appended.entries)
        assert [entry.chain for entry in made] == [ALPHA, ALPHA_TEST, BETA]
