"""Reading along a chain and by id: nothing skipped, nothing twice, nothing of another chain."""

from __future__ import annotations

import anyio
import pytest

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import EntryStore
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    ALPHA_TEST,
    BETA,
    StoreTests,
    assert_intact,
    read_all,
    seqs,
)
from precipiq_testkit.sealing import Writer, entry_id


class ReadTests(StoreTests):
    async def test_reading_in_steps_gives_every_entry_once(self, store: EntryStore, writer: Writer) -> None:
        """``read`` MUST give the entries after ``after_seq``, oldest first, up to ``limit`` of them.

        On failure: is it ``seq > after_seq order by seq limit``, and nothing else?
        """
        expected = await writer.fill(ALPHA, 23)
        found: list[Entry] = []
        for _ in range(10):
            step = await store.read(ALPHA, found[-1].seq if found else 0, 5)
            assert len(step) <= 5, "more entries than the limit"
            found.extend(step)
        assert found == expected
        assert list(await store.read(ALPHA, 23, 5)) == []
        assert list(await store.read(BETA, 0, 5)) == []

    async def test_reading_one_kind_gives_all_of_that_kind(self, store: EntryStore, writer: Writer) -> None:
        """With a kind, ``read`` MUST give up to ``limit`` entries of that kind, however many others lie between.

        On failure: does the limit count entries that do not match?
        """
        kinds = (["decision"] * 9 + ["financial_event"]) * 4
        await writer.append(ALPHA, *(writer.draft(kind=kind) for kind in kinds))
        assert seqs(await store.read(ALPHA, 0, 3, "financial_event")) == [10, 20, 30]
        assert seqs(await store.read(ALPHA, 30, 3, "financial_event")) == [40]
        assert list(await store.read(ALPHA, 0, 3, "financial")) == []

    async def test_a_reader_who_follows_a_growing_chain_skips_nothing(self, store: EntryStore, writer: Writer) -> None:
        """An entry MUST NOT become readable after one with a higher seq: a follower would pass it by.

        On failure: are entries of one chain made visible in the order of their seqs?
        """
        followed: list[Entry] = []

        async def grow() -> None:
            for _ in range(10):
                await writer.append(ALPHA, writer.draft(), writer.draft())

        with self.patience("what was appended"):
            async with anyio.create_task_group() as group:
                for _ in range(6):
                    group.start_soon(grow)
                while len(followed) < 120:
                    step = await store.read(ALPHA, followed[-1].seq if followed else 0, 7)
                    followed.extend(step)
                    assert seqs(followed[-7:]) == list(range(max(len(followed) - 6, 1), len(followed) + 1)), "skipped"
        assert_intact(ALPHA, followed)
        assert followed == await read_all(store, ALPHA)

    @pytest.mark.parametrize(
        "entry_id", ["", "unknown", "' or '1'='1", "%", "é", "00000000-0000-7000-8000-000000000000"]
    )
    async def test_an_unknown_id_gives_none(self, store: EntryStore, writer: Writer, entry_id: str) -> None:
        """``get`` MUST give None for an id that the chain does not have, whatever it looks like.

        On failure: a column of type UUID that refuses other texts, or a LIKE.
        """
        await writer.fill(ALPHA, 2)
        assert await store.get(ALPHA, entry_id) is None

    async def test_an_empty_chain_reads_as_empty(self, store: EntryStore, writer: Writer) -> None:
        """A chain without entries MUST read as empty, not fail, also when other chains have some.

        On failure: a row per chain that only the first append makes?
        """
        await writer.fill(BETA, 3)
        assert await store.head(ALPHA) is None
        assert list(await store.read(ALPHA, 0, 10)) == []
        assert store.auditor().last_seq(ALPHA) == 0


class IsolationTests(StoreTests):
    @pytest.fixture
    async def chains_with_entries(self, writer: Writer) -> dict[Chain, list[Entry]]:
        """Three chains of different lengths: two environments of one organisation, and another organisation."""
        lengths = {ALPHA: 3, ALPHA_TEST: 5, BETA: 7}
        return {chain: await writer.fill(chain, count, f"of {chain.org_id}") for chain, count in lengths.items()}

    async def test_read_gives_only_its_own_chain(
        self, store: EntryStore, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """``read`` MUST NOT give an entry of another organisation or environment.

        On failure: are both organisation and environment part of every condition?
        """
        for chain, entries in chains_with_entries.items():
            assert await read_all(store, chain) == entries
            assert list(await store.read(chain, 0, 100, "decision")) == entries

    async def test_get_gives_only_its_own_chain(
        self, store: EntryStore, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """``get`` MUST give None for the id of another chain's entry.

        On failure: is the id looked up in the whole table?
        """
        for chain, entries in chains_with_entries.items():
            for other in chains_with_entries:
                found = await store.get(other, entry_id(entries[0]))
                assert found == (entries[0] if other == chain else None), f"{other} sees an entry of {chain}"

    async def test_head_is_of_its_own_chain(
        self, store: EntryStore, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """``head`` MUST NOT tell of another chain's entries.

        On failure: are both organisation and environment part of the condition?
        """
        for chain, entries in chains_with_entries.items():
            head = await store.head(chain)
            assert head is not None
            assert (head.seq, head.hash) == (entries[-1].seq, entries[-1].hash)

    async def test_redact_touches_only_its_own_chain(
        self, store: EntryStore, writer: Writer, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """Erasing entry 2 of one chain MUST leave entry 2 of every other chain as it is.

        On failure: does the deletion name organisation, environment and seq?
        """
        await writer.redact(ALPHA, chains_with_entries[ALPHA][1])
        for chain in (ALPHA_TEST, BETA):
            assert await read_all(store, chain) == chains_with_entries[chain], f"{chain} was changed"

    async def test_redactions_are_told_to_their_own_chain_alone(
        self, store: EntryStore, writer: Writer, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """``redaction_ids`` MUST NOT tell of another organisation's or environment's redactions.

        On failure: is it read as the tenant, or through the auditor, which sees every chain?
        """
        redaction = await writer.redact(ALPHA, chains_with_entries[ALPHA][1])
        for chain in chains_with_entries:
            expected = {2: entry_id(redaction)} if chain == ALPHA else {}
            assert dict(await store.redaction_ids(chain, [1, 2, 3])) == expected, f"{chain} is told"

    async def test_the_auditor_reads_only_its_own_chain(
        self, store: EntryStore, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """The auditor MUST tell of the chain that it is asked about and of no other.

        On failure: are both organisation and environment part of every condition?
        """
        auditor = store.auditor()
        for chain, entries in chains_with_entries.items():
            hashes = [entry.hash for entry in entries]
            assert [item for batch in auditor.batches(chain, 0, None, 2) for item in batch.hashes] == hashes
            assert auditor.last_seq(chain) == len(entries)
            assert list(auditor.hashes_at(chain, [2])) == [hashes[1]]

    async def test_chains_are_listed_once_each(
        self, store: EntryStore, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """``chains`` MUST give every chain that has an entry, once.

        On failure: is it ``distinct`` over organisation and environment?
        """
        listed = [chain async for chain in store.chains()]
        assert sorted(listed, key=repr) == sorted(chains_with_entries, key=repr)

    async def test_heads_told_at_once_are_those_of_the_chains(
        self, store: EntryStore, chains_with_entries: dict[Chain, list[Entry]]
    ) -> None:
        """Where a store has ``heads``, that MUST tell of every chain, once, its head, or None.

        On failure: is the last entry looked for in each chain by itself?
        """
        heads = getattr(store, "heads", None)
        if heads is None:
            return
        told = [(chain, known or await store.head(chain)) async for chain, known in heads()]
        assert sorted((chain for chain, _ in told), key=repr) == sorted(chains_with_entries, key=repr)
        assert dict(told) == {chain: await store.head(chain) for chain in chains_with_entries}
