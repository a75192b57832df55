"""Raw reading for verification: everything, as it is stored, from another process too."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import anyio.to_thread
import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import EntryAuditor, EntryStore
from precipiq_testkit.entry_store_suite.support import ALPHA, BETA, StoreTests
from precipiq_testkit.sealing import Writer

RANGES = [
    (0, None, 4),
    (0, None, 1),
    (0, None, 100),
    (0, 10, 4),
    (3, 9, 2),
    (9, None, 4),
    (4, 4, 4),
    (10, None, 4),
    (0, 50, 4),
]


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that an auditor tells of a chain."""

    rows: tuple[tuple[int, str, bytes, bytes | None], ...]
    last_seq: int
    hash_at_2: str | None
    redactions: tuple[tuple[bytes, str | None], ...]
    stray: tuple[int, str] | None


def audit(auditor: EntryAuditor, chain: Chain) -> Audit:
    """Ask for everything. A function of its module, so that another process can run it."""
    rows: list[tuple[int, str, bytes, bytes | None]] = []
    for batch in auditor.batches(chain, 0, None, 3):
        rows.extend(zip(batch.seqs, batch.hashes, map(bytes, batch.statements), batch.payloads, strict=True))
    redactions = tuple((bytes(statement), mac) for statement, mac in auditor.redactions(chain, [1, 2, 3]))
    return Audit(
        tuple(rows), auditor.last_seq(chain), auditor.hashes_at(chain, [2])[0], redactions, auditor.stray(chain)
    )


def audit_elsewhere(auditor: EntryAuditor, chain: Chain) -> Audit:
    """:func:`audit` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(audit, auditor, chain).result()


class AuditTests(StoreTests):
    @pytest.mark.parametrize(("after_seq", "through_seq", "size"), RANGES)
    async def test_batches_give_every_row_of_the_range(
        self, store: EntryStore, writer: Writer, after_seq: int, through_seq: int | None, size: int
    ) -> None:
        """``batches`` MUST give each row with ``after_seq`` < seq <= ``through_seq``, by seq, ``size`` rows a batch.

        On failure: the ends of the range, or a last batch that is left out. The columns must be of one length.
        """
        entries = await writer.fill(ALPHA, 10)
        batches = list(store.auditor().batches(ALPHA, after_seq, through_seq, size))
        expected = entries[after_seq:through_seq]
        assert [seq for batch in batches for seq in batch.seqs] == [entry.seq for entry in expected]
        assert all(len(batch.seqs) == size for batch in batches[:-1]), "a batch before the last is not full"
        assert all(0 < len(batch.seqs) <= size for batch in batches)
        for batch in batches:
            assert batch.problem is None, "a problem in a chain that nobody touched"
            assert len(batch.seqs) == len(batch.hashes) == len(batch.statements) == len(batch.payloads)
            assert len(batch.seqs) == len(batch.macs)

    async def test_the_audit_gives_the_stored_bytes(self, store: EntryStore, writer: Writer) -> None:
        """The auditor MUST give hashes, statements and payloads as they are stored, erased ones as None.

        On failure: does it repair, skip or rebuild? What it hides, verification cannot find.
        """
        entries = await _fill_with_a_redaction(writer)
        assert audit(store.auditor(), ALPHA) == _expect_audit(entries)

    async def test_the_auditor_works_in_another_process(self, store: EntryStore, writer: Writer) -> None:
        """The auditor MUST be picklable, and tell another process, started afresh, the same.

        On failure: does it hold a connection, a lock or the store itself instead of the way to open its own?
        """
        entries = await _fill_with_a_redaction(writer)
        auditor = store.auditor()
        assert await anyio.to_thread.run_sync(audit_elsewhere, auditor, ALPHA) == _expect_audit(entries)

    async def test_the_audit_knows_the_last_seq_and_each_hash(self, store: EntryStore, writer: Writer) -> None:
        """``last_seq`` MUST be the highest seq, ``hashes_at`` the hashes stored there, in the order asked.

        On failure: a value that is kept beside the entries instead of read from them.
        """
        auditor = store.auditor()
        assert (auditor.last_seq(ALPHA), list(auditor.hashes_at(ALPHA, [1]))) == (0, [None])
        entries = await writer.fill(ALPHA, 4)
        auditor = store.auditor()
        assert auditor.last_seq(ALPHA) == 4
        expected = [None, *(entry.hash for entry in entries), None]
        assert list(auditor.hashes_at(ALPHA, range(6))) == expected
        assert list(auditor.hashes_at(ALPHA, [4, 9, 1, 4])) == [expected[4], None, expected[1], expected[4]]
        assert list(auditor.hashes_at(ALPHA, [])) == []

    async def test_redactions_are_found_by_their_targets(self, store: EntryStore, writer: Writer) -> None:
        """``redactions`` MUST give statement and MAC of every redaction that names one of these seqs, in that chain.

        On failure: ``target_seq`` compared as text, a list that is too long for the query, or another chain's entries.
        """
        entries = await writer.fill(ALPHA, 12)
        other = await writer.fill(BETA, 3)
        made = {entry.seq: await writer.redact(ALPHA, entry) for entry in entries[::2]}
        await writer.redact(BETA, other[1])
        auditor = store.auditor()
        for wanted in ([1], [1, 11], [2], [], list(range(1, 13)), list(range(3000, 0, -1))):
            expected = {(made[seq].statement, made[seq].mac) for seq in wanted if seq in made}
            found = {(bytes(statement), mac) for statement, mac in auditor.redactions(ALPHA, wanted)}
            assert found == expected, wanted[:12]

    async def test_an_intact_store_has_no_stray_entry(self, store: EntryStore, writer: Writer) -> None:
        """``stray`` MUST be None while every entry is filed under the chain that its statement says.

        On failure: does the search compare organisation and environment of the statement with those of the row?
        """
        for chain in (ALPHA, BETA):
            await writer.fill(chain, 3)
        assert store.auditor().stray(ALPHA) is None


async def _fill_with_a_redaction(writer: Writer) -> list[Entry]:
    entries = await writer.fill(ALPHA, 6)
    await writer.append(ALPHA, writer.draft("é\x00", erasable=False, metadata={"n": 10**30}))
    await writer.fill(BETA, 2)
    await writer.redact(ALPHA, entries[1])
    stored = list(await writer.store.read(ALPHA, 0, 100))
    return [stored[0], replace(entries[1], payload=None), *stored[2:]]


def _expect_audit(entries: Sequence[Entry]) -> Audit:
    rows = tuple((entry.seq, entry.hash, entry.statement, entry.payload) for entry in entries)
    redactions = tuple((e.statement, e.mac) for e in entries if parse_statement(e.statement).kind == "redaction")
    assert len(redactions) == 1
    return Audit(rows, len(entries), entries[1].hash, redactions, None)
