"""Faults in appending and in idempotency keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from anyio.lowlevel import checkpoint

from precipiq_chain.chain_format import head_of
from precipiq_contracts.chain import GENESIS_HASH, Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import Appended, Seal
from precipiq_testkit.broken_drivers.fault import Fault
from precipiq_testkit.memory import MemoryData


class LeavesAGap(Fault):
    """The database numbers the rows, and skips one after each batch."""

    caught_by = "test_seqs_are_dense_from_one"
    symptom = "seqs must be dense from 1"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        shift = len({entry.hash for entry in self._data.of(chain)}) // 4
        return super()._store_sealed(chain, new, lambda *asked: [replace(e, seq=e.seq + shift) for e in seal(*asked)])


class ReversesABatch(Fault):
    """Seals a batch from its end."""

    caught_by = "test_entries_keep_the_order_of_their_drafts"
    symptom = r"agents\(await read_all\(store, ALPHA\)\) == names"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        return super()._store_sealed(chain, new[::-1], seal)[::-1]


class LosesABatch(Fault):
    """Acknowledges a batch of three, but does not store it."""

    caught_by = "test_what_was_sealed_is_stored_and_given_back_byte_for_byte"
    symptom = r"read_all\(store, ALPHA\)\) == appended.entries"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        return seal(self._head_now(chain), new) if len(new) == 3 else super()._store_sealed(chain, new, seal)


class LosesTheMacs(Fault):
    """Has no column for what stands beside the statement, and answers with what it was given."""

    caught_by = "test_macs_are_stored_and_given_back"
    symptom = "has another MAC"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        sealed = super()._store_sealed(chain, new, seal)
        for entry in sealed:
            self._data.entries[chain][entry.seq - 1] = replace(entry, mac=None)
        return sealed


class _AltersPayloads(Fault):
    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        sealed = super()._store_sealed(chain, new, seal)
        for entry in sealed:
            if entry.payload is not None:
                self._data.entries[chain][entry.seq - 1] = replace(entry, payload=self.alter(entry.payload))
        return sealed

    def alter(self, payload: bytes) -> bytes:
        raise NotImplementedError


class ReserialisesThePayload(_AltersPayloads):
    """Parses the payload and writes it again in its own style."""

    caught_by = "test_what_was_sealed_is_stored_and_given_back_byte_for_byte"
    symptom = r"read_all\(store, ALPHA\)\) == appended.entries"

    def alter(self, payload: bytes) -> bytes:
        return json.dumps(json.loads(payload)).encode()


class LosesNul(_AltersPayloads):
    """Leaves \\u0000 out, as a text column that refuses it tempts one to do."""

    caught_by = "test_texts_are_kept_exactly"
    symptom = r"read_all\(store, ALPHA\)\) == appended.entries"

    def alter(self, payload: bytes) -> bytes:
        return payload.replace(rb"\u0000", b"")


class RoundsNumbers(_AltersPayloads):
    """Keeps numbers as floats."""

    caught_by = "test_numbers_are_kept_exactly"
    symptom = r"read_all\(store, ALPHA\)\) == appended.entries"

    def alter(self, payload: bytes) -> bytes:
        return json.dumps(json.loads(payload, parse_int=float), separators=(",", ":")).encode()


class SealsWithoutTheTime(Fault):
    """Gives ``seal`` a head without its timestamp, so that time may stand still or go back."""

    caught_by = "test_seal_is_called_with_the_true_head"
    symptom = r"seal.heads\[-1\] == last"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        return super()._store_sealed(
            chain, new, lambda head, drafts: seal(head and replace(head, timestamp_us=0), drafts)
        )


class ShowsAStaleHead(Fault):
    """Answers ``head`` from a cache that the last append has not reached."""

    caught_by = "test_head_reflects_every_append_that_has_returned"
    symptom = "head is older than an append that has returned|head is not None"

    async def head(self, chain: Chain) -> Head | None:
        entries = self._data.of(chain)[:-1]
        return head_of(entries[-1]) if entries else None


class StoresHalfABatch(Fault):
    """Has no transaction: what was stored before ``seal`` raised stays."""

    caught_by = "test_nothing_is_stored_when_seal_raises"
    symptom = "a refused batch left something behind"

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        try:
            return super()._store_sealed(chain, new, seal)
        except Exception:
            torn = Entry(chain, len(self._data.of(chain)) + 1, GENESIS_HASH, new[0].body, new[0].payload)
            self._data.entries.setdefault(chain, []).append(torn)
            raise


class FailsTheWholeGroup(Fault):
    """Groups appends into one transaction and fails them all when one fails."""

    caught_by = "test_a_seal_that_raises_fails_its_own_caller_only"
    symptom = "SealRefused"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._failures: list[Exception] = []

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        group = self._failures
        await checkpoint()
        if group:
            raise group[0]
        try:
            return self._append_now(chain, drafts, seal)
        except Exception as error:
            group.append(error)
            self._failures = []
            raise


class ForksUnderConcurrency(Fault):
    """Reads the head, and lets others in before it stores."""

    caught_by = "test_many_writers_neither_fork_a_chain_nor_leave_a_gap"
    symptom = "seqs must be dense from 1"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        head = self._head_now(chain)
        await checkpoint()
        return await super().append(chain, drafts, lambda _, new: seal(head, new))


class CountsPerOrganisation(Fault):
    """Links both environments of an organisation into one chain."""

    caught_by = "test_chains_are_counted_and_linked_apart"
    symptom = "seqs must be dense from 1"

    def _head_now(self, chain: Chain) -> Head | None:
        entries = self._of_organisation(chain)
        return head_of(max(entries, key=lambda entry: entry.seq)) if entries else None


class StoresOneByOne(Fault):
    """Commits after each draft, so that a cancelled batch stays in part."""

    caught_by = "test_a_cancelled_append_leaves_a_whole_chain"
    symptom = "a cancelled batch was stored in part"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        done = [await super(StoresOneByOne, self).append(chain, [draft], seal) for draft in drafts]
        return Appended(tuple(one.entries[0] for one in done), tuple(one.created[0] for one in done))


class KeepsTheLockOfTheCancelled(Fault):
    """Never gives the chain's lock back when the task that holds it is cancelled."""

    caught_by = "test_a_cancelled_append_leaves_a_whole_chain"
    symptom = "an append after the cancelled ones did not come"
    _locked = False

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        while self._locked:
            await checkpoint()
        self._locked = True
        appended = await super().append(chain, drafts, seal)
        self._locked = False
        return appended


class ForgetsKeys(Fault):
    """Does not look idempotency keys up."""

    caught_by = "test_a_known_key_is_answered_with_the_stored_entry"
    symptom = "again.entries, again.created"

    def _known(self, chain: Chain) -> dict[str, Entry]:
        return {}


class LooksAtStoredKeysOnly(Fault):
    """Seals a key that occurs twice in one batch twice."""

    caught_by = "test_a_key_twice_in_one_batch_makes_one_entry"
    symptom = r"read_all\(store, ALPHA\) == list\(appended.entries\[:2\]\)"

    def _new_drafts(self, known: dict[str, Entry], drafts: Sequence[PreparedDraft]) -> list[PreparedDraft]:
        return [draft for draft in drafts if draft.idempotency_key not in known]


class AnswersKnownDraftsFirst(Fault):
    """Puts the entries that it already had before the new ones."""

    caught_by = "test_known_and_new_drafts_mix_in_one_append"
    symptom = "appended.created == "

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        appended = await super().append(chain, drafts, seal)
        pairs = sorted(zip(appended.entries, appended.created, strict=True), key=lambda pair: pair[1])
        return Appended(tuple(entry for entry, _ in pairs), tuple(created for _, created in pairs))


class SealsKnownDraftsToo(Fault):
    """Seals every draft and throws the known ones away afterwards."""

    caught_by = "test_seal_sees_only_drafts_that_are_new"
    symptom = r"seal.drafts_seen\(\) == "

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        appended = await super().append(chain, drafts, seal)
        seal(await self.head(chain), drafts)
        return appended


class LooksKeysUpTooEarly(Fault):
    """Looks keys up before it has the chain's lock."""

    caught_by = "test_one_key_from_many_tasks_makes_one_entry"
    symptom = "one key made several entries"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        known = self._known(chain)
        await checkpoint()
        return self._append_now(chain, drafts, seal, known)


class SharesKeysAcrossChains(Fault):
    """Has a unique index on the key alone."""

    caught_by = "test_a_key_is_unique_per_chain_and_not_across_chains"
    symptom = "a key of another chain counts as known"

    def _known(self, chain: Chain) -> dict[str, Entry]:
        return {entry.idempotency_key: entry for entry in self._all() if entry.idempotency_key is not None}
