"""Faults in auditing, and in the driver as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, cast

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import AuditBatch, EntryAuditor
from precipiq_contracts.errors import Unavailable
from precipiq_testkit.broken_drivers.fault import Fault
from precipiq_testkit.memory import MemoryAuditor, MemoryData
from precipiq_testkit.sealing import REDACTION


class _ForgetsTheRest(MemoryAuditor):
    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        rows = self.entries.get(chain, [])[after_seq:through_seq]
        for start in range(0, len(rows) - size + 1, size):
            yield self.batch(rows[start : start + size])


class LeavesTheLastBatchOut(Fault):
    """Audits full batches only."""

    caught_by = "test_batches_give_every_row_of_the_range"
    symptom = "batch.seqs"

    def auditor(self) -> EntryAuditor:
        return _ForgetsTheRest(self._data.entries)


class _HidesMissingPayloads(MemoryAuditor):
    def batch(self, rows: Sequence[Entry]) -> AuditBatch:
        kept = [row for row in rows if row.payload or parse_statement(row.statement).payload_hash is None]
        return super().batch(kept)


class HidesAMissingPayload(Fault):
    """Passes over the rows whose payload is missing."""

    caught_by = "test_the_audit_gives_the_stored_bytes"
    symptom = r"audit\(store.auditor\(\), ALPHA\) == _expect_audit"

    def auditor(self) -> EntryAuditor:
        return _HidesMissingPayloads(self._data.entries)


@dataclass(frozen=True)
class _HoldsALock(MemoryAuditor):
    lock: object


class AuditsInItsOwnProcessOnly(Fault):
    """Gives the auditor something that cannot leave the process."""

    caught_by = "test_the_auditor_works_in_another_process"
    symptom = "cannot pickle"

    def auditor(self) -> EntryAuditor:
        return _HoldsALock(self._data.entries, Lock())


class _CountsEntries(MemoryAuditor):
    def last_seq(self, chain: Chain) -> int:
        return sum(len(rows) for rows in self.entries.values()) or 1


class KeepsTheLastSeqBesideTheEntries(Fault):
    """Answers ``last_seq`` from a counter."""

    caught_by = "test_the_audit_knows_the_last_seq_and_each_hash"
    symptom = "last_seq"

    def auditor(self) -> EntryAuditor:
        return _CountsEntries(self._data.entries)


class _SearchesTexts(MemoryAuditor):
    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        parts = [b'"target_seq":%d' % seq for seq in target_seqs]
        rows = [row for row in self.entries.get(chain, ()) if REDACTION.encode() in row.statement]
        return [(row.statement, row.mac) for row in rows if any(part in row.statement for part in parts)]


class SearchesRedactionsAsText(Fault):
    """Takes the redaction of entry 11 for one of entry 1."""

    caught_by = "test_redactions_are_found_by_their_targets"
    symptom = "== expected"

    def auditor(self) -> EntryAuditor:
        return _SearchesTexts(self._data.entries)


class _SeesStrays(MemoryAuditor):
    def stray(self, chain: Chain) -> tuple[int, str] | None:
        return next(((rows[0].seq, filed.org_id) for filed, rows in self.entries.items() if filed != chain), None)


class TakesNeighboursForStrays(Fault):
    """Calls an entry of another chain stray."""

    caught_by = "test_an_intact_store_has_no_stray_entry"
    symptom = "stray"

    def auditor(self) -> EntryAuditor:
        return _SeesStrays(self._data.entries)


class DeclaresAList(Fault):
    """Declares its capabilities in a list."""

    caught_by = "test_the_driver_says_what_it_is"
    symptom = "isinstance"
    capabilities: ClassVar[frozenset[str]] = cast("frozenset[str]", [])


class NeverPings(Fault):
    """Says that it cannot serve although it can."""

    caught_by = "test_an_open_store_answers_a_ping"
    symptom = "Unavailable"

    async def ping(self) -> None:
        raise Unavailable("down")


class ForgetsOnClosing(Fault):
    """Keeps nothing from one opening to the next."""

    caught_by = "test_entries_survive_closing_and_opening"
    symptom = r"read_all\(store, ALPHA\) == before"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        data.entries.clear()


class KnowsItsOwnKeysOnly(Fault):
    """Keeps the known keys per process."""

    caught_by = "test_two_stores_append_to_one_chain"
    symptom = "== 16"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._own: dict[str, Entry] = {}

    def _known(self, chain: Chain) -> dict[str, Entry]:
        return self._own


class WakesItsOwnWatchersOnly(Fault):
    """Does not wake those who watch through another process."""

    caught_by = "test_an_append_wakes_the_watchers_of_every_store"
    symptom = "a wake-up from another store did not come"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(MemoryData(data.entries))
