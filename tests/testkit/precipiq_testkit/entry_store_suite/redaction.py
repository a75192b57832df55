"""Redaction: the payload goes, the proof stays, and the chain says so first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Entry
from precipiq_contracts.entry_store import EntryQuery, EntryStore
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    StoreTests,
    assert_intact,
    find_all,
    read_all,
    seqs,
)
from precipiq_testkit.sealing import SealRefused, Writer, entry_id


class RedactTests(StoreTests):
    async def test_redact_drops_the_payload_and_keeps_the_proof(self, store: EntryStore, writer: Writer) -> None:
        """After ``redact`` no method MUST give the target's payload, and all else of it MUST be as before.

        On failure: is there another copy of the payload, or was the row replaced instead of emptied?
        """
        entries = await writer.fill(ALPHA, 3)
        await writer.redact(ALPHA, entries[1])
        erased = replace(entries[1], payload=None)
        assert (await read_all(store, ALPHA))[:3] == [entries[0], erased, entries[2]]
        assert await store.get(ALPHA, entry_id(erased)) == erased
        assert await find_all(store, ALPHA, EntryQuery("decision")) == [entries[2], erased, entries[0]]
        payloads = [item for batch in store.auditor().batches(ALPHA, 0, 3, 10) for item in batch.payloads]
        assert payloads == [entries[0].payload, None, entries[2].payload]

    async def test_an_erased_payload_is_found_no_more(self, store: EntryStore, writer: Writer) -> None:
        """Metadata is payload: once erased, ``find`` MUST NOT match it; the body's fields still match.

        On failure: an index or column that was made from the payload and is still there?
        """
        target = (await writer.append(ALPHA, writer.draft("a", metadata={"name": "Ada"}))).entries[0]
        assert seqs(await find_all(store, ALPHA, EntryQuery("decision", metadata={"name": "Ada"}))) == [1]
        await writer.redact(ALPHA, target)
        assert await find_all(store, ALPHA, EntryQuery("decision", metadata={"name": "Ada"})) == []
        assert seqs(await find_all(store, ALPHA, EntryQuery("decision", body={"agent_id": "a"}))) == [1]

    async def test_the_redaction_is_an_entry_that_names_its_target(self, store: EntryStore, writer: Writer) -> None:
        """``redact`` MUST append its draft as an entry like any other and return it as stored.

        On failure: is the redaction sealed after the true head, and stored whole?
        """
        entries = await writer.fill(ALPHA, 2)
        redaction = await writer.redact(ALPHA, entries[0])
        stored = await read_all(store, ALPHA)
        assert stored[2:] == [redaction]
        assert_intact(ALPHA, stored)
        body = parse_statement(redaction.statement).body
        assert (body["target_seq"], body["target_hash"]) == (1, entries[0].hash)

    async def test_redactions_are_known_by_their_targets(self, store: EntryStore, writer: Writer) -> None:
        """``redaction_ids`` MUST give the id of every redaction that has returned, by the seq that it names.

        On failure: ``target_seq`` compared as text, a list that is too long for the query, or a cache.
        """
        entries = await writer.fill(ALPHA, 12)
        made: dict[int, str] = {}
        for target in entries[::2]:
            assert dict(await store.redaction_ids(ALPHA, [target.seq])) == {}
            made[target.seq] = entry_id(await writer.redact(ALPHA, target))
            assert dict(await store.redaction_ids(ALPHA, [target.seq])) == {target.seq: made[target.seq]}
        for wanted in ([1, 11], [2], [13], [], list(range(3000, 0, -1))):
            expected = {seq: made[seq] for seq in wanted if seq in made}
            assert dict(await store.redaction_ids(ALPHA, wanted)) == expected, wanted[:12]

    async def test_a_second_redaction_gives_the_first(self, store: EntryStore, writer: Writer) -> None:
        """A second call with the same idempotency key MUST return the first redaction and add no entry.

        On failure: does ``redact`` honour the draft's idempotency key?
        """
        target = (await writer.fill(ALPHA, 1))[0]
        first = await writer.redact(ALPHA, target)
        assert await writer.redact(ALPHA, target) == first
        assert len(await read_all(store, ALPHA)) == 2

    async def test_redactions_at_the_same_time_make_one_entry(self, store: EntryStore, writer: Writer) -> None:
        """Calls for one target at the same time MUST all return one redaction.

        On failure: is the key looked up under the chain's lock?
        """
        target = (await writer.fill(ALPHA, 1))[0]

        async def redact() -> Entry:
            return await writer.redact(ALPHA, target)

        assert len(set(await self.run_together(*[redact] * 8))) == 1
        entries = await read_all(store, ALPHA)
        assert len(entries) == 2
        assert_intact(ALPHA, entries)

    async def test_a_payload_is_kept_when_its_redaction_is_not_stored(self, store: EntryStore, writer: Writer) -> None:
        """The payload MUST NOT be dropped before its redaction entry is stored: that would look like tampering.

        On failure: the order of the two steps, or a missing transaction around them.
        """
        target = (await writer.fill(ALPHA, 1))[0]
        with pytest.raises(SealRefused):
            await store.redact(ALPHA, target, writer.redaction(target), writer.refusing_seal(ALPHA))
        assert await read_all(store, ALPHA) == [target], "the payload is gone, or a redaction was stored"

    async def test_a_redaction_that_was_cut_short_is_completed(self, store: EntryStore, writer: Writer) -> None:
        """With the redaction entry stored and the payload still there, a second call MUST drop it.

        On failure: does a known idempotency key end the call before the payload is dropped?
        """
        target = (await writer.fill(ALPHA, 1))[0]
        stored = (await writer.append(ALPHA, writer.redaction(target))).entries[0]
        assert await writer.redact(ALPHA, target) == stored
        assert await read_all(store, ALPHA) == [replace(target, payload=None), stored]

    async def test_a_replay_after_erasure_does_not_bring_the_payload_back(
        self, store: EntryStore, writer: Writer
    ) -> None:
        """A draft whose known key belongs to an erased entry MUST be answered with it, as erased.

        On failure: a cache of entries by key, or an upsert.
        """
        target = (await writer.append(ALPHA, writer.draft(key="key"))).entries[0]
        await writer.redact(ALPHA, target)
        again = await writer.append(ALPHA, writer.draft(key="key"))
        assert (again.entries, again.created) == ((replace(target, payload=None),), (False,))
        assert (await read_all(store, ALPHA))[0].payload is None
