"""The chain to the byte: the published vectors, and what sealing promises."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_chain.canonical import canonical
from precipiq_chain.chain_format import (
    head_of,
    parse_statement,
    prepare,
    seal_entries,
    split_payload,
    statement_id,
    statement_prev_hash,
    statement_timestamp,
)
from precipiq_contracts.chain import GENESIS_HASH, Chain, Draft, Head
from precipiq_contracts.clock import format_timestamp, parse_timestamp

VECTORS = json.loads((Path(__file__).parent / "data" / "ledger-vectors.json").read_text())["entries"]
CHAIN = Chain("o_test", "test")


@pytest.mark.parametrize("vector", VECTORS, ids=range(1, len(VECTORS) + 1))
def test_the_published_vectors_come_out_to_the_byte(vector: dict[str, Any]) -> None:
    draft = Draft(vector["kind"], "key_01", vector["body_as_given"], vector["payload_as_given"])
    prepared = prepare(draft, bytes.fromhex(vector["salt"] or ""))
    expected = parse_statement(vector["canonical_statement"].encode())

    if vector["canonical_payload_and_salt"] is None:
        assert prepared.payload is None
    else:
        assert prepared.payload == vector["canonical_payload_and_salt"].encode()
    assert prepared.payload_hash == expected.payload_hash

    now_us = parse_timestamp(expected.timestamp)
    head = None if expected.seq == 1 else Head(expected.seq - 1, expected.prev_hash, now_us - 1)
    (entry,) = seal_entries(CHAIN, head, [prepared], now_us=now_us, randomness=bytes(10))
    text = entry.statement.decode().replace(statement_id(entry.statement), expected.id)
    assert text == vector["canonical_statement"]
    assert sha256(text.encode()).hexdigest() == vector["hash"]


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=5), st.integers(1, 4))
def test_sealing_links_and_moves_time_forward_whatever_the_clock_says(clock_us: list[int], count: int) -> None:
    head, previous_hash, previous_time = None, GENESIS_HASH, ""
    for now_us in clock_us:
        drafts = [prepare(Draft("note", 'a"ctor', {"n": n, "id": "x"}, {"p": n}), bytes(16)) for n in range(count)]
        for entry in seal_entries(CHAIN, head, drafts, now_us=now_us, randomness=bytes(10 * count)):
            statement = parse_statement(entry.statement)
            assert canonical(json.loads(entry.statement)) == entry.statement
            assert statement.prev_hash == previous_hash == statement_prev_hash(entry.statement)
            assert statement.timestamp > previous_time
            assert statement_timestamp(entry.statement) == statement.timestamp
            assert statement_id(entry.statement) == statement.id
            assert statement.id[14] == "7"
            assert statement.id[19] in "89ab"
            previous_hash, previous_time = entry.hash, statement.timestamp
            head = head_of(entry)


def test_entries_that_are_sealed_together_share_no_random_part_of_their_ids() -> None:
    drafts = [prepare(Draft("note", "a", {}), bytes(16))] * 3
    entries = seal_entries(CHAIN, None, drafts, now_us=0, randomness=bytes(range(30)))
    assert len({statement_id(entry.statement)[-12:] for entry in entries}) == 3


def test_a_payload_splits_into_what_it_was_made_of() -> None:
    prepared = prepare(Draft("note", "a", {}, {"salt": "x", "payload": {"salt": 1}}), bytes(range(16)))
    assert prepared.payload is not None
    payload, salt = split_payload(prepared.payload)
    assert json.loads(payload) == {"salt": "x", "payload": {"salt": 1}}
    assert salt == bytes(range(16)).hex()


@given(st.integers(0, 253402300799_999999))
def test_timestamps_go_there_and_back(us: int) -> None:
    assert parse_timestamp(format_timestamp(us)) == us


@pytest.mark.parametrize("statement", [b"", b"{}", b"[]", b'{"v":2}', VECTORS[0]["hash"].encode()])
def test_what_is_no_statement_is_refused(statement: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_statement(statement)
