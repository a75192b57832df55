"""The chain to the byte: the published vectors, ids, and timestamps that only increase."""

from __future__ import annotations

import json
import re
import uuid
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_core import chain_format
from precipiq_core.canonical import canonical
from precipiq_core.chain_format import (
    ID_RANDOM_BYTES,
    head_of,
    parse_json,
    parse_statement,
    prepare,
    salted_payload_hash,
    seal_entries,
    split_payload,
    statement_id,
    statement_prev_hash,
    statement_timestamp,
)
from precipiq_core.clock import parse_timestamp
from precipiq_core.contracts.chain import GENESIS_HASH, Chain, Draft, Entry, Head

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "ledger-vectors.json").read_text())["entries"]
CHAIN = Chain("o_test", "test")


def draft(kind: str = "decision", **body: object) -> Draft:
    return Draft(kind, "key_01", body, {"inputs": {}}, None)


def seal(drafts: list[Draft], head: Head | None = None, now_us: int = 1_000_000, seed: int = 0) -> list[Entry]:
    prepared = [prepare(item, bytes(16)) for item in drafts]
    drawn = b"".join((seed + index).to_bytes(ID_RANDOM_BYTES, "big") for index in range(len(drafts)))
    return seal_entries(CHAIN, head, prepared, now_us=now_us, randomness=drawn)


def test_the_published_vectors_are_reproduced_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    head = None
    for vector in VECTORS:
        expected = json.loads(vector["canonical_statement"])
        given_draft = Draft(vector["kind"], expected["actor"], vector["body_as_given"], vector.get("payload_as_given"))
        prepared = prepare(given_draft, bytes.fromhex(vector.get("salt") or ""))
        monkeypatch.setattr(chain_format, "uuid7", lambda *_, fixed=expected["id"]: fixed)

        [entry] = seal_entries(
            CHAIN, head, [prepared], now_us=parse_timestamp(expected["timestamp"]), randomness=bytes(ID_RANDOM_BYTES)
        )

        payload = vector.get("canonical_payload_and_salt")
        assert prepared.payload == (None if payload is None else payload.encode())
        assert entry.statement.decode() == vector["canonical_statement"]
        assert (entry.seq, entry.hash) == (expected["seq"], vector["hash"])
        head = head_of(entry)
    assert len(VECTORS) >= 3


def test_a_statement_is_canonical_and_hashes_to_the_entrys_hash() -> None:
    [entry] = seal([draft(note='quote " and \\ and Zoë', amount="-1.00")])

    assert canonical(parse_json(entry.statement)) == entry.statement
    assert sha256(entry.statement).hexdigest() == entry.hash
    assert parse_statement(entry.statement).prev_hash == GENESIS_HASH


def test_entries_of_one_batch_link_to_each_other() -> None:
    entries = seal([draft(n=number) for number in range(5)])

    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    for before, after in zip(entries, entries[1:], strict=False):
        assert parse_statement(after.statement).prev_hash == before.hash


@given(st.lists(st.integers(0, 4_000_000_000_000_000), min_size=2, max_size=6))
def test_timestamps_increase_strictly_even_when_the_clock_goes_back(clock_us: list[int]) -> None:
    head, stamps = None, []
    for now_us in clock_us:
        entries = seal([draft(), draft()], head, now_us)
        stamps += [parse_statement(entry.statement).timestamp for entry in entries]
        head = head_of(entries[-1])

    assert all(before < after for before, after in zip(stamps, stamps[1:], strict=False))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp) for stamp in stamps)


def test_ids_are_uuids_of_version_7_that_carry_the_entrys_time() -> None:
    entries = seal([draft(), draft()], now_us=1_767_225_600_123_456)
    ids = [uuid.UUID(statement_id(entry.statement)) for entry in entries]

    assert {(item.version, item.variant) for item in ids} == {(7, uuid.RFC_4122)}
    assert [item.int >> 80 for item in ids] == [1_767_225_600_123] * 2
    assert ids[0] != ids[1]


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4))
def test_the_quick_readers_agree_with_a_full_parse(actor: str, body: dict[str, str]) -> None:
    tricky = {**body, "x": ',"id":"no","prev_hash":"no","timestamp":"no"'}
    try:
        prepared = prepare(Draft("decision", actor, tricky, None), b"")
    except ValueError:
        return
    [entry] = seal_entries(CHAIN, None, [prepared], now_us=5, randomness=bytes(10))
    statement = parse_statement(entry.statement)

    assert statement_id(entry.statement) == statement.id
    assert statement_prev_hash(entry.statement) == statement.prev_hash
    assert statement_timestamp(entry.statement) == statement.timestamp


def test_a_payload_splits_into_itself_and_its_salt() -> None:
    prepared = prepare(draft(), bytes(range(16)))
    assert prepared.payload is not None

    payload, salt = split_payload(prepared.payload)

    assert (payload, salt) == (b'{"inputs":{}}', bytes(range(16)).hex())
    assert salted_payload_hash(payload, salt) == prepared.payload_hash == sha256(prepared.payload).hexdigest()


@pytest.mark.parametrize("number", [2**53 + 1, 2**64, -(2**63) - 1, 10**30, -(10**30), 505874924095815681])
def test_long_integers_keep_all_their_digits(number: int) -> None:
    [entry] = seal([draft(number=number)])

    assert parse_statement(entry.statement).body["number"] == number


@pytest.mark.parametrize("change", ['"v":2', '"v":1,"w":1', '"w":1'])
def test_what_is_no_statement_of_version_1_is_refused(change: str) -> None:
    [entry] = seal([draft()])

    with pytest.raises(ValueError, match="version 1"):
        parse_statement(entry.statement.replace(b'"v":1', change.encode()))
