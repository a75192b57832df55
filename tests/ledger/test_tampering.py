"""An intruder edits a database of either kind, with the triggers dropped: verification names the entry."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from precipiq_chain.canonical import canonical
from precipiq_chain.chain_format import parse_statement
from precipiq_chain.grouping import idempotency_check
from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_ledger.checkpoints import Checkpoint
from precipiq_ledger.verifier import VerifierLimits
from precipiq_macs.entry_macs import MacCheck
from precipiq_postgres.entries.columns import indexed_columns
from precipiq_testkit.sealing import ROOT
from tests.effort import rounds
from tests.ledger.forgers import forged_mac
from tests.ledger.intruders import (
    BYTES,
    CHAIN,
    ENTRIES,
    IN_PROCESSES,
    INLINE,
    OTHER_CHAIN,
    REDACTED,
    REDACTION,
    SIGNER,
    STORED,
    Intruder,
    Original,
    postgres_original,
    sqlite_original,
)

COLUMNS = {
    "sqlite": STORED,
}
COLUMNS["postgres"] = (*COLUMNS["sqlite"], "id", "kind", "agent_id", "action_type", "redacts_seq")
PLACES_MAX = {"sqlite": rounds(4, long=40), "postgres": rounds(2, long=4)}
"""Bytes that are altered of each value: a verification over PostgreSQL connects several times."""


@pytest.fixture(scope="module")
def original(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Original]:
    if database == "sqlite":
        with sqlite_original(tmp_path_factory.mktemp("original")) as made:
            yield made
    else:
        with postgres_original(request.getfixturevalue("shared_postgres")) as made:
            yield made


@pytest.fixture
def intruder(original: Original, tmp_path: Path) -> Iterator[Intruder]:
    intruder = original.fresh(tmp_path)
    intruder.drop_triggers()
    yield intruder
    intruder.close()


@pytest.mark.parametrize(
    ("chain", "limits"),
    [(CHAIN, INLINE), (OTHER_CHAIN, INLINE), (CHAIN, IN_PROCESSES)],
    ids=["alpha", "beta", "alpha in processes"],
)
def test_an_untouched_chain_holds_from_wherever_it_is_checked(
    original: Original, tmp_path: Path, limits: VerifierLimits, chain: Any
) -> None:
    intruder = original.fresh(tmp_path)
    intruder.chain = chain
    last = intruder.seqs()[-1]
    intruder.checkpoint(last)
    for from_seq in range(1, last + 1) if limits is INLINE else (1,):
        verdict = intruder.verify(limits, from_seq)
        assert (verdict.broken, verdict.verdict, verdict.head_seq) == (None, "checkpointed", last)
        assert verdict.checked_count == last + 1 - from_seq
    intruder.close()


def test_every_column_that_is_stored_is_tried(intruder: Intruder, database: str) -> None:
    assert intruder.columns == COLUMNS[database]


@pytest.mark.parametrize("column", COLUMNS["postgres"])
def test_any_altered_byte_of_any_column_is_found_at_its_entry(intruder: Intruder, column: str, database: str) -> None:
    """What a redaction no longer explains is missing where it was, and that is the first break."""
    if column not in intruder.columns:
        assert intruder.put(intruder.place(1), **{column: "x"}) is None, "what is generated cannot be altered"
        return
    intruder.drop_constraints()
    chosen = random.Random(column)
    tried = 0
    for seq in range(1, ENTRIES + 1):
        [value] = intruder.get(seq, column)
        place = intruder.place(seq)
        for altered in _altered(column, value, chosen, PLACES_MAX[database]):
            moved = intruder.put(place, **{column: altered})
            if moved is None:
                continue

            broken = intruder.broken()

            place = intruder.put(moved, **{column: value})
            assert broken is not None, (column, seq, altered)
            allowed = {seq, REDACTED} if seq == REDACTION else {seq}
            assert broken.seq in allowed or (column == "seq" and broken.seq == altered), (column, altered, broken)
            tried += 1
    assert tried >= ENTRIES
    assert intruder.broken() is None


def _altered(column: str, value: Any, chosen: random.Random, places_max: int) -> Iterator[Any]:
    """The value with one byte changed, and what a value may be instead of none and none instead of it."""
    if value is None:
        yield {"redacts_seq": 4}.get(column, b"x" if column in BYTES else "x")
    elif isinstance(value, int):
        yield from (value + 100 if value < 1000 else value - 100, -value, 0, value ^ 64)
    else:
        letters: Any = "0123456789abcdef" if column == "id" else "abcXYZ019 ,}"
        places = [place for place in range(len(value)) if column != "id" or value[place] != "-"]
        if len(places) > places_max:
            places = [places[0], *sorted(chosen.sample(places[1:-1], places_max - 2)), places[-1]]
        for place in places:
            there = value[place : place + 1]
            others = [letter.encode() if column in BYTES else letter for letter in letters]
            other = chosen.choice([letter for letter in others if letter != there])
            yield value[:place] + other + value[place + 1 :]
    if value is not None and column in (
        "payload",
        "idempotency_key",
        "idempotency_check",
        "agent_id",
        "action_type",
        "mac",
    ):
        yield None


@pytest.mark.parametrize("seq", [1, 4, REDACTION - 1, ENTRIES - 1])
def test_a_deleted_row_is_missed(intruder: Intruder, seq: int) -> None:
    intruder.remove(seq, seq)
    expected = (seq, "SEQ_GAP") if seq != REDACTION else (REDACTED, "PAYLOAD_ABSENT")
    assert intruder.found() == expected


@pytest.mark.parametrize("seq", [1, 4, ENTRIES])
def test_a_duplicated_row_is_found(intruder: Intruder, seq: int) -> None:
    intruder.drop_constraints()
    intruder.copy(seq)
    assert intruder.found() == (seq, "SEQ_REPEATED")
    if seq == 4:  # the border between the two processes
        assert intruder.found(IN_PROCESSES) == (seq, "SEQ_REPEATED")


def test_swapped_rows_are_found(intruder: Intruder) -> None:
    intruder.drop_constraints()
    fourth, fifth = intruder.place(4), intruder.place(5)
    intruder.put(fourth, seq=5)
    intruder.put(fifth, seq=4)
    assert intruder.found() == intruder.found(IN_PROCESSES) == (4, "POSITION_MISMATCH")


def test_swapped_statements_are_found(intruder: Intruder) -> None:
    """All of a row but its place in the chain changes hands."""
    intruder.drop_constraints()
    columns = [name for name in intruder.columns if name not in ("org_id", "environment", "seq")]
    fourth, sixth = intruder.get(4, *columns), intruder.get(6, *columns)
    intruder.set(4, **dict(zip(columns, sixth, strict=True)))
    intruder.set(6, **dict(zip(columns, fourth, strict=True)))
    assert intruder.found() == (4, "POSITION_MISMATCH")


def test_an_inserted_row_is_found_even_when_it_is_hashed_right(intruder: Intruder) -> None:
    intruder.drop_constraints()
    for seq in range(ENTRIES, 3, -1):
        intruder.set(seq, seq=seq + 1)
    [next_statement] = intruder.get(5, "statement")
    _insert(intruder, 3, seq=4, timestamp=json.loads(next_statement)["timestamp"])
    assert intruder.found() == (5, "POSITION_MISMATCH")


@pytest.mark.parametrize("seq", [1, 4, ENTRIES])
def test_a_seq_that_cannot_be_is_found(intruder: Intruder, seq: int) -> None:
    intruder.drop_constraints()
    place: Any = intruder.place(seq)
    for value in (*intruder.impossible_seqs, ENTRIES + 1000):
        place = intruder.put(place, seq=value)
        found = intruder.found()
        assert found is not None, value
        assert found[0] in (seq, value), value


def test_a_row_where_none_can_be_is_found(intruder: Intruder) -> None:
    """Filed before the first entry, or under a seq that is no number, it could be got by its id."""
    intruder.drop_constraints()
    for value in intruder.impossible_seqs:
        intruder.copy(4, seq=value)
        found = intruder.found()
        assert found is not None, value
        assert found[0] in (value, ENTRIES + 1), value
        intruder.execute("DELETE FROM entries WHERE seq = ?", value)


@pytest.mark.parametrize("seq", [0, ENTRIES + 5])
def test_a_redaction_from_outside_the_chain_explains_no_missing_payload(intruder: Intruder, seq: int) -> None:
    intruder.drop_constraints()
    [target_hash] = intruder.get(5, "hash")
    body = {"target_seq": 5, "target_hash": target_hash, "target_id": "x", "reason": "x"}
    _insert(intruder, REDACTION, seq=seq, body=body)
    intruder.set(5, payload=None)
    found = intruder.found()
    assert found is not None
    assert found[0] == (0 if seq == 0 else ENTRIES + 1)


def test_a_redaction_from_before_the_part_that_is_checked_explains_nothing(intruder: Intruder, database: str) -> None:
    intruder.drop_constraints()
    [target_hash] = intruder.get(5, "hash")
    body = {"target_seq": 5, "target_hash": target_hash, "target_id": "x", "reason": "x"}
    _insert(intruder, REDACTION, seq=0, body=body)
    intruder.set(5, payload=None)
    broken = intruder.verify(from_seq=4).broken
    assert broken is not None
    assert (broken.seq, broken.code) == (5, "PAYLOAD_ABSENT")


def test_a_redaction_of_another_entry_explains_no_missing_payload(intruder: Intruder) -> None:
    intruder.set(4, payload=None)
    assert intruder.found() == intruder.found(IN_PROCESSES) == (4, "PAYLOAD_ABSENT")


def test_an_erased_payload_cannot_be_replaced(intruder: Intruder) -> None:
    intruder.set(REDACTED, payload=b'{"payload":{},"salt":"00"}')
    assert intruder.found() == (REDACTED, "PAYLOAD_MISMATCH")


def test_a_payload_where_there_was_none_is_found(intruder: Intruder) -> None:
    intruder.set(REDACTION, payload=b"{}")
    assert intruder.found() == (REDACTION, "PAYLOAD_UNEXPECTED")


def test_dropped_indexes_hide_nothing(intruder: Intruder) -> None:
    intruder.checkpoint(ENTRIES)
    intruder.drop_constraints()
    assert intruder.broken() is None
    [payload] = intruder.get(6, "payload")
    assert b'"v"' in payload
    intruder.set(6, payload=payload.replace(b'"v"', b'"w"'))
    assert intruder.found() == (6, "PAYLOAD_MISMATCH")


def test_a_row_appended_without_the_right_hash_is_found(intruder: Intruder) -> None:
    _insert(intruder, ENTRIES, stored_hash="0" * 64, seq=ENTRIES + 1)
    assert intruder.found() == (ENTRIES + 1, "CONTENT_MISMATCH")


@pytest.mark.parametrize(
    "filed", [{"org_id": "ORG_ALPHA"}, {"org_id": "org_beta"}, {"environment": "test"}, {"org_id": ""}], ids=str
)
@pytest.mark.parametrize("last", [1, 4, ENTRIES])
def test_entries_filed_under_another_chain_are_found(intruder: Intruder, filed: dict[str, object], last: int) -> None:
    """One of the chain: missed, or, at its end, found where it is."""
    intruder.drop_constraints()
    intruder.set(last, **filed)
    assert intruder.found() == ((last, "FILED_ELSEWHERE") if last == ENTRIES else (last, "SEQ_GAP"))
    intruder.chain = OTHER_CHAIN
    foreign = intruder.broken()
    assert (foreign is not None) == (filed == {"org_id": "org_beta"})


def test_a_whole_chain_filed_elsewhere_is_found(intruder: Intruder) -> None:
    intruder.drop_constraints()
    for seq in range(1, ENTRIES + 1):
        intruder.set(seq, environment="test")
    assert intruder.found() == (1, "FILED_ELSEWHERE")


def test_a_rewritten_suffix_holds_together_but_not_with_a_checkpoint(intruder: Intruder) -> None:
    intruder.checkpoint(6)
    _rewrite_from(intruder, 4)
    clean = verify_stretch(intruder.auditor(), CHAIN, GENESIS, None, batch_entries=3, macs=MacCheck(ROOT))
    assert clean.broken is None, "the rewriting must be a clean one"
    assert clean.checked_count == ENTRIES

    assert intruder.found() == (6, "INCONSISTENT_WITH_CHECKPOINT")


@pytest.mark.parametrize("kept", [0, 3, ENTRIES - 1])
def test_a_cut_tail_is_found_by_a_checkpoint(intruder: Intruder, kept: int) -> None:
    intruder.checkpoint(ENTRIES)
    intruder.remove(kept + 1)
    missing = (REDACTED, "PAYLOAD_ABSENT") if REDACTED <= kept < REDACTION else (kept + 1, "TRUNCATED")
    if kept == 0:
        missing = (1, "ORG_MISSING")
    assert intruder.found() == missing


def test_a_forged_checkpoint_is_found_by_its_signature(intruder: Intruder) -> None:
    intruder.checkpoint(5)
    _rewrite_from(intruder, 4)
    path = next(intruder.files.folder.iterdir())
    line = json.loads(path.read_text())
    line["hash"] = intruder.auditor().hashes_at(CHAIN, [5])[0]
    path.write_text(json.dumps(line) + "\n")
    assert SIGNER.holds(Checkpoint(**line)) is False

    assert intruder.found() == (5, "CHECKPOINT_FORGED")


def _insert(intruder: Intruder, template_seq: int, stored_hash: str | None = None, **changes: object) -> None:
    """Insert a made-up row: like that entry's, with these changes of the statement, hashed and sealed right."""
    statement, previous = intruder.get(template_seq, "statement", "hash")
    fields = json.loads(statement) | {"prev_hash": previous, "id": "01900000-0000-7000-8000-000000000000"} | changes
    text = canonical(fields)
    intruder.copy(
        template_seq,
        seq=fields["seq"],
        statement=text,
        hash=stored_hash or sha256(text).hexdigest(),
        mac=forged_mac(ROOT, fields["timestamp"], sha256(text).hexdigest()),
        idempotency_key=None,
        idempotency_check=None,
        **_beside(text),
    )


def _beside(statement: bytes) -> dict[str, object]:
    """What PostgreSQL's table holds beside a statement."""
    names = ("id", "kind", "agent_id", "action_type", "redacts_seq")
    return dict(zip(names, indexed_columns(statement), strict=True))


def _rewrite_from(intruder: Intruder, first: int) -> None:
    """Change an entry and recompute every hash from there on, as an intruder would who has the sealer's key too."""
    [previous] = intruder.get(first - 1, "hash")
    for seq in range(first, ENTRIES + 1):
        statement, key = intruder.get(seq, "statement", "idempotency_key")
        fields = json.loads(statement)
        fields["prev_hash"] = previous
        if seq == first:
            fields["body"]["confidence"] = 0.25
        text = canonical(fields)
        assert parse_statement(text).seq == seq
        previous = sha256(text).hexdigest()
        check = None if key is None else idempotency_check(key.decode(), previous)
        mac = forged_mac(ROOT, fields["timestamp"], previous)
        intruder.set(seq, statement=text, hash=previous, idempotency_check=check, mac=mac)
