"""What intruders do: each attack of the catalogue by its number, at its level, on one chain of a running server.

T1 writes the database: rows, triggers, functions. T2 also writes the server's disk: its files of checkpoints.
A chain has :data:`LAST` entries: the key's creation, decisions, the redaction of :data:`ERASED`, more decisions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from precipiq_chain.canonical import canonical
from precipiq_contracts.chain import Entry
from tests.ledger import forgers
from tests.ledger.intruders import Intruder

DECISIONS = 4
"""Before the redaction, and after it."""

ERASED = 3
LAST = 2 * DECISIONS + 2
VICTIM = 8
"""The entry that most attacks aim at; it has a payload."""


@dataclass(frozen=True)
class Attack:
    """``codes``: what verification may call it; ``seq``: where; ``act``: what is done, to one chain.

    ``files``: what is done to the chain's file of checkpoints besides.
    """

    name: str
    level: str
    codes: tuple[str, ...]
    seq: int
    act: Callable[[Intruder], object]
    files: Callable[[Path], object] | None = None


def _edit(**changes: object) -> Callable[[bytes], bytes]:
    """A statement with other fields, as canonical as before."""

    def edit(statement: bytes) -> bytes:
        return canonical(json.loads(statement) | changes)

    return edit


def _restate(intruder: Intruder, seq: int, edit: Callable[[bytes], bytes], *, hashed: bool = True) -> str:
    """Alter an entry's statement; ``hashed``: and its hash. Gives the hash that it has now."""
    statement, hash_ = intruder.get(seq, "statement", "hash")
    altered = edit(bytes(statement))
    stored = sha256(altered).hexdigest() if hashed else str(hash_)
    intruder.set(seq, statement=altered, hash=stored)
    return stored


def _rewrite(intruder: Intruder, first: int) -> None:
    """Alter an entry, and all hashes and links from it on."""
    hash_ = _restate(intruder, first, _edit(actor="key_forged"))
    for seq in [seq for seq in intruder.seqs() if seq > first]:
        hash_ = _restate(intruder, seq, _edit(prev_hash=hash_))


def _swap(intruder: Intruder) -> None:
    for seq, becomes in ((VICTIM, 1000), (VICTIM + 1, VICTIM), (1000, VICTIM + 1)):
        intruder.set(seq, seq=becomes)


def _insert_old(intruder: Intruder) -> None:
    """A row between others: those after it move on, and every hash is made anew."""
    rows = {seq: intruder.get(seq, "statement", "payload", "hash", "mac") for seq in range(VICTIM, LAST + 1)}
    intruder.remove(VICTIM)
    forged = forgers.append(intruder, payload={"inputs": {}, "outputs": {}, "alternatives": None, "metadata": None})
    hash_ = forged.hash
    for seq, (statement, payload, _, mac) in rows.items():
        altered = _edit(seq=seq + 1, prev_hash=hash_)(bytes(statement))
        hash_ = sha256(altered).hexdigest()
        forgers.insert(intruder, Entry(intruder.chain, seq + 1, hash_, altered, payload), mac)


def _begin_anew(intruder: Intruder) -> None:
    intruder.remove(1)
    for _ in range(LAST + 3):
        forgers.append(intruder)


def _strip_macs(intruder: Intruder) -> None:
    for seq in range(VICTIM, LAST + 1):
        intruder.set(seq, mac=None)


def _forget_payload(intruder: Intruder) -> None:
    intruder.set(VICTIM, payload=None)


def _drop_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _forge_lines(path: Path) -> None:
    """Signatures and key of each line are another's."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["signature"] = "00" * 64
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


ROWS = (
    Attack(
        "A1_a_field_is_edited_in_place",
        "T1",
        ("CONTENT_MISMATCH",),
        VICTIM,
        lambda it: _restate(it, VICTIM, _edit(actor="key_forged"), hashed=False),
    ),
    Attack(
        "A1_a_field_is_edited_and_its_hash_made_anew",
        "T1",
        ("UNAUTHENTIC_ENTRY",),
        VICTIM,
        lambda it: _restate(it, VICTIM, _edit(actor="key_forged")),
    ),
    Attack(
        "A2_the_key_beside_an_entry_is_edited",
        "T1",
        ("COLUMN_MISMATCH",),
        VICTIM,
        lambda it: it.set(VICTIM, idempotency_key=b"another", idempotency_check="0" * 64),
    ),
    Attack("A3_a_row_is_deleted", "T1", ("SEQ_GAP",), VICTIM, lambda it: it.remove(VICTIM, VICTIM)),
    Attack("A4_two_rows_change_places", "T1", ("POSITION_MISMATCH",), VICTIM, _swap),
    Attack("A5_a_row_is_put_between_others", "T1", ("UNAUTHENTIC_ENTRY",), VICTIM, _insert_old),
    Attack("A6_a_row_is_appended", "T1", ("UNAUTHENTIC_ENTRY",), LAST + 1, forgers.append),
    Attack("A7_the_rest_is_rewritten", "T1", ("UNAUTHENTIC_ENTRY",), VICTIM, lambda it: _rewrite(it, VICTIM)),
    Attack("A8_the_tail_is_cut", "T1", ("TRUNCATED",), LAST - 1, lambda it: it.remove(LAST - 1)),
    Attack("A8_the_last_entry_is_cut", "T1", ("TRUNCATED",), LAST, lambda it: it.remove(LAST)),
    Attack("A9_the_chain_begins_anew", "T1", ("UNAUTHENTIC_ENTRY",), 1, _begin_anew),
    Attack("A12_a_chain_is_deleted", "T1", ("ORG_MISSING",), 1, lambda it: it.remove(1)),
    Attack(
        "A15_an_entry_is_moved_to_the_live_chain",
        "T1",
        ("FILED_ELSEWHERE", "TRUNCATED"),
        LAST,
        lambda it: it.set(LAST, environment="live"),
    ),
    Attack(
        "A19_a_statement_is_encoded_otherwise",
        "T1",
        ("CONTENT_MISMATCH", "MALFORMED", "UNAUTHENTIC_ENTRY"),
        VICTIM,
        lambda it: _restate(it, VICTIM, lambda text: json.dumps(json.loads(text)).encode()),
    ),
    Attack(
        "A20_a_hash_is_written_otherwise",
        "T1",
        ("CONTENT_MISMATCH",),
        VICTIM,
        lambda it: it.set(VICTIM, hash=str(it.get(VICTIM, "hash")[0]).upper()),
    ),
    Attack("A21_a_payload_is_stripped", "T1", ("PAYLOAD_ABSENT",), VICTIM, _forget_payload),
    Attack(
        "A21_a_payload_is_erased_behind_a_made_up_redaction",
        "T1",
        ("UNAUTHENTIC_ENTRY",),
        VICTIM,
        lambda it: forgers.erase(it, VICTIM),
    ),
    Attack("A6_macs_are_stripped", "T1", ("UNAUTHENTIC_ENTRY",), VICTIM, _strip_macs),
)
"""On one chain each. What the sweep alone says of each, verification says after a checkpoint and after a restart."""

FILES = (
    Attack(
        "A7_the_rest_is_rewritten_and_its_checkpoints_forged",
        "T2",
        ("UNAUTHENTIC_ENTRY",),
        VICTIM,
        lambda it: _rewrite(it, VICTIM),
        _forge_lines,
    ),
    Attack(
        "A8_the_tail_is_cut_and_its_checkpoint_too",
        "T2",
        ("TRUNCATED", "CHECKPOINTS_LOST"),
        LAST,
        lambda it: it.remove(LAST),
        _drop_last_line,
    ),
    Attack(
        "A9_the_chain_begins_anew_without_its_checkpoints", "T2", ("UNAUTHENTIC_ENTRY",), 1, _begin_anew, Path.unlink
    ),
    Attack(
        "A12_a_chain_and_its_checkpoints_are_deleted", "T2", ("ORG_MISSING",), 1, lambda it: it.remove(1), Path.unlink
    ),
)
"""Those that reach the disk too."""

_KEY = "key_id, org_id, environment, secret_hash, prefix, last_four, scopes, created_us"
_SIGNING_KEY = "key_id, org_id, environment, public_key, wrapped_key, created_us"


def _insert(table: str, columns: str, *values: object) -> Callable[[Intruder], object]:
    """A row of that chain: its own id, the chain, those values."""

    def insert(intruder: Intruder) -> None:
        chain = intruder.chain
        row = (f"forged_{chain.org_id}", chain.org_id, chain.environment, *values)
        intruder.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", *row)

    return insert


def _change_key(assignment: str) -> Callable[[Intruder], object]:
    def change(intruder: Intruder) -> None:
        intruder.execute(f"UPDATE api_keys SET {assignment} WHERE org_id = ?", intruder.chain.org_id)

    return change


NO_ENTRY = 0

BESIDE = (
    Attack(
        "A17_a_signing_key_is_put_in",
        "T1",
        ("KEY_UNANCHORED",),
        NO_ENTRY,
        _insert("signing_keys", _SIGNING_KEY, "AAAA", "AAAA", 1),
    ),
    Attack(
        "A17_an_api_key_is_put_in",
        "T1",
        ("ROW_UNANNOUNCED",),
        NO_ENTRY,
        _insert("api_keys", _KEY, "0" * 64, "pq_test_", "0000", "read write admin", 1),
    ),
    Attack("A17_the_scopes_of_a_key_are_altered", "T1", ("ROW_UNANNOUNCED",), NO_ENTRY, _change_key("scopes = 'read'")),
    Attack(
        "A17_the_end_of_a_key_is_taken_away",
        "T1",
        ("ROW_UNANNOUNCED",),
        NO_ENTRY,
        _change_key("expires_us = 9000000000000000"),
    ),
)
"""Those on rows beside the chain, which stays whole: they grant nothing."""

ALL: tuple[Attack, ...] = (*ROWS, *FILES, *BESIDE)


def attack(intruder: Intruder, what: Attack, checkpoints: Path) -> Any:
    """Do it."""
    if what.files is not None:
        what.files(checkpoints)
    return what.act(intruder)
