"""A request's bounds as a range of seqs, found by bisection, also where a damaged entry is in the way."""

from __future__ import annotations

import pytest

from precipiq_chain.chain_format import parse_statement, prepare, seal_entries
from precipiq_contracts.chain import Chain, Draft
from precipiq_exports.jobs import Range, Request
from precipiq_exports.ranges import range_of
from precipiq_testkit.memory import MemoryAuditor

CHAIN = Chain("org_alpha", "test")
ENTRIES = 20


@pytest.fixture
def auditor() -> MemoryAuditor:
    drafts = [prepare(Draft("decision", "key_1", {"number": number}), bytes(16)) for number in range(ENTRIES)]
    return MemoryAuditor({CHAIN: seal_entries(CHAIN, None, drafts, now_us=10**15, randomness=bytes(10 * ENTRIES))})


def moment(auditor: MemoryAuditor, seq: int) -> str:
    [batch] = auditor.batches(CHAIN, seq - 1, seq, 1)
    return parse_statement(batch.statements[0]).timestamp


@pytest.mark.parametrize("first", [1, 2, 7, ENTRIES])
@pytest.mark.parametrize("last", [1, 8, ENTRIES])
def test_times_become_the_seqs_between_them(auditor: MemoryAuditor, first: int, last: int) -> None:
    end = moment(auditor, last + 1) if last < ENTRIES else "2999-01-01T00:00:00.000000Z"
    found = range_of(auditor, CHAIN, Request(start=moment(auditor, first), end=end), ENTRIES)
    assert found == Range(first - 1, max(first - 1, last))


def test_bounds_beyond_the_chain_are_cut_to_it(auditor: MemoryAuditor) -> None:
    assert range_of(auditor, CHAIN, Request(), ENTRIES) == Range(0, ENTRIES)
    assert range_of(auditor, CHAIN, Request(after_seq=5, through_seq=99), ENTRIES) == Range(5, ENTRIES)
    assert range_of(auditor, CHAIN, Request(after_seq=99), ENTRIES) == Range(ENTRIES, ENTRIES)
    assert range_of(auditor, CHAIN, Request(start="2999-01-01T00:00:00.000000Z"), ENTRIES) == Range(ENTRIES, ENTRIES)
    assert range_of(auditor, CHAIN, Request(end="1970-01-01T00:00:00.000000Z"), ENTRIES) == Range(0, 0)
    assert range_of(MemoryAuditor({}), CHAIN, Request(start="2020-01-01T00:00:00.000000Z"), 0) == Range(0, 0)


def test_a_damaged_entry_in_the_way_leaves_the_range_wide(auditor: MemoryAuditor) -> None:
    start = moment(auditor, 15)
    entries = list(auditor.entries[CHAIN])
    entries[10] = type(entries[10])(CHAIN, 11, entries[10].hash, b"{", None)
    assert range_of(MemoryAuditor({CHAIN: entries}), CHAIN, Request(start=start), ENTRIES) == Range(0, ENTRIES)
