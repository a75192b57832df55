"""An intruder edits the database, with the triggers dropped: `verify` names the entry."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_core.canonical import canonical
from precipiq_core.chain_format import parse_statement
from precipiq_core.contracts.chain import Chain, Head
from precipiq_ledger.checkpoints import Checkpoint, CheckpointFiles, CheckpointSigner, compare
from precipiq_ledger.drivers.sqlite_audit import SqliteAuditor
from precipiq_ledger.verify import GENESIS, Anchor, Break, Stretch, verify_stretch
from precipiq_testkit.server import ServerProcess

ENTRIES = 8
COLUMNS = ("org_id", "environment", "seq", "statement", "payload", "hash", "idempotency_key", "idempotency_check")


class Signing:
    def derive(self, purpose: str) -> bytes:
        return sha256(purpose.encode()).digest()


SIGNER = CheckpointSigner(Signing())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chain]:
    """A database made by the real server, stopped; each test works on a copy."""
    server = ServerProcess(tmp_path_factory.mktemp("original")).start()
    with httpx2.Client(base_url=server.url, headers={"X-Precipiq-Key": server.key}) as http:
        for number in range(ENTRIES - 1):
            body = {
                "agent_id": "a",
                "action_type": "b",
                "inputs": {"n": number},
                "outputs": {},
                "confidence": 1,
                "metadata": {"k": "v"},
            }
            answer = http.post("/api/v1/decisions", json=body, headers={"Idempotency-Key": f"key-{number}"})
            assert answer.status_code == 201
    assert server.stop() == 0
    return server.database_file, Chain(server.org_id, "test")


class Intruder:
    """Write access to a copy of the database, without triggers."""

    def __init__(self, path: Path, chain: Chain, folder: Path) -> None:
        self.path = path
        self.chain = chain
        self.files = CheckpointFiles(folder / "checkpoints")
        self.connection = sqlite3.connect(path, isolation_level=None)
        for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            self.connection.execute(f"DROP TRIGGER {name}")

    def drop_indexes(self) -> None:
        sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'entries' AND sql IS NOT NULL"
        for (name,) in self.connection.execute(sql).fetchall():
            self.connection.execute(f"DROP INDEX {name}")

    def execute(self, sql: str, *parameters: object) -> list[Any]:
        return self.connection.execute(sql, parameters).fetchall()

    def alter(self, column: str, value: object, rowid: int) -> bool:
        """False when the generated columns refused it, since the statement would be no JSON any more."""
        try:
            self.execute(f"UPDATE entries SET {column} = ? WHERE rowid = ?", value, rowid)
        except sqlite3.OperationalError:
            return False
        return True

    def checkpoint(self, seq: int) -> None:
        """What the server had signed before the intruder came."""
        stored = SqliteAuditor(self.path, 5.0).hashes_at(self.chain, [seq])[0]
        assert stored is not None
        self.files.append(SIGNER.sign(self.chain, Head(seq, stored, 0), 1_700_000_000_000_000))

    def verdict(self) -> Break | None:
        auditor = SqliteAuditor(self.path, 5.0)
        stretch = self.stretch(auditor)
        if stretch.broken is not None:
            return stretch.broken
        stray = auditor.stray(self.chain)
        if stray is not None:
            return Break(stray[0], "FILED_ELSEWHERE", stray[1])
        return compare(self.files, SIGNER, auditor, self.chain, stretch.last.seq, signatures_max=100).broken

    def stretch(self, auditor: SqliteAuditor, after: Anchor = GENESIS) -> Stretch:
        return verify_stretch(auditor, self.chain, after, None, batch_entries=3)


@pytest.fixture
def intruder(original: tuple[Path, Chain], tmp_path: Path) -> Iterator[Intruder]:
    path, chain = original
    copy = tmp_path / "precipiq.db"
    shutil.copy(path, copy)
    intruder = Intruder(copy, chain, tmp_path)
    yield intruder
    intruder.connection.close()


def test_the_untouched_chain_holds(intruder: Intruder) -> None:
    intruder.checkpoint(ENTRIES)
    assert intruder.verdict() is None


@pytest.mark.parametrize("column", COLUMNS)
def test_any_altered_byte_of_any_column_is_found_at_its_entry(intruder: Intruder, column: str) -> None:
    intruder.drop_indexes()
    chosen = random.Random(column)
    tried = 0
    for seq, value in intruder.execute(f"SELECT seq, {column} FROM entries ORDER BY seq"):
        if value is None:
            continue
        for altered in _altered(value, chosen):
            rowid = intruder.execute("SELECT rowid FROM entries WHERE seq = ?", seq)[0][0]
            if not intruder.alter(column, altered, rowid):
                continue

            found = intruder.verdict()

            assert found is not None, (column, seq, altered)
            assert found.seq == seq or (column == "seq" and found.seq in (seq, altered)), (column, seq, found)
            intruder.execute(f"UPDATE entries SET {column} = ? WHERE rowid = ?", value, rowid)
            tried += 1
    assert tried >= 7
    assert intruder.verdict() is None


def _altered(value: Any, chosen: random.Random) -> Iterator[Any]:
    """The value with one byte changed: at every place of short ones, at forty of long ones."""
    if isinstance(value, int):
        yield from (value + 100, -value, 0, value ^ 64)
        return
    places = range(len(value)) if len(value) <= 64 else sorted(chosen.sample(range(len(value)), 40))
    for place in places:
        other = chosen.choice([letter for letter in "abcXYZ019 ,}" if letter != value[place]])
        yield value[:place] + other + value[place + 1 :]


@pytest.mark.parametrize("seq", [1, 4, ENTRIES - 1])
def test_a_deleted_row_is_missed(intruder: Intruder, seq: int) -> None:
    intruder.execute("DELETE FROM entries WHERE seq = ?", seq)
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (seq, "SEQ_GAP")


def test_a_duplicated_row_is_found(intruder: Intruder) -> None:
    intruder.drop_indexes()
    columns = ", ".join(COLUMNS)
    intruder.execute(f"INSERT INTO entries ({columns}) SELECT {columns} FROM entries WHERE seq = 4")
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (4, "SEQ_REPEATED")


def test_swapped_rows_are_found(intruder: Intruder) -> None:
    intruder.drop_indexes()
    for old, new in ((4, 100), (5, 4), (100, 5)):
        intruder.execute("UPDATE entries SET seq = ? WHERE seq = ?", new, old)
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (4, "POSITION_MISMATCH")


def test_an_inserted_row_is_found_even_when_it_is_hashed_right(intruder: Intruder) -> None:
    intruder.drop_indexes()
    intruder.execute("UPDATE entries SET seq = seq + 1 WHERE seq >= 4")
    statement = _resealed(intruder, 3, seq=4)
    digest = sha256(statement.encode()).hexdigest()
    intruder.execute(
        "INSERT INTO entries (org_id, environment, seq, statement, payload, hash) "
        "SELECT org_id, environment, 4, ?, payload, ? FROM entries WHERE seq = 3",
        statement,
        digest,
    )
    found = intruder.verdict()
    assert found is not None
    assert found.seq in (4, 5)


@pytest.mark.parametrize("seq", [1, 4, ENTRIES])
@pytest.mark.parametrize("value", [0, -1, ENTRIES + 0.5, "x", b"x", ENTRIES + 1000])
def test_a_seq_that_cannot_be_is_found(intruder: Intruder, seq: int, value: object) -> None:
    intruder.drop_indexes()
    intruder.execute("UPDATE entries SET seq = ? WHERE seq = ?", value, seq)
    found = intruder.verdict()
    assert found is not None
    assert found.seq in (seq, value)


@pytest.mark.parametrize("value", [0, -1, -(2**63), 2**63 - 1, "x", b"x", b"\xff" * 50])
def test_a_row_where_none_can_be_is_found(intruder: Intruder, value: object) -> None:
    """Filed before the first entry, or under a seq that is no number, it could be got by its id."""
    intruder.drop_indexes()
    columns = "org_id, environment, statement, payload, hash"
    intruder.execute(f"INSERT INTO entries (seq, {columns}) SELECT ?, {columns} FROM entries WHERE seq = 4", value)
    found = intruder.verdict()
    assert found is not None
    assert found.seq in (value, ENTRIES + 1)


def test_a_redaction_from_outside_the_chain_explains_no_missing_payload(intruder: Intruder) -> None:
    (target_hash,) = intruder.execute("SELECT hash FROM entries WHERE seq = 5")[0]
    body = {"target_seq": 5, "target_hash": target_hash, "target_id": "x", "reason": "x"}
    statement = _resealed(intruder, 3, kind="redaction", body=body, payload_hash=None, id="other", seq=0)
    intruder.execute(
        "INSERT INTO entries (org_id, environment, seq, statement, hash) VALUES (?, 'test', 0, ?, ?)",
        intruder.chain.org_id,
        statement,
        sha256(statement.encode()).hexdigest(),
    )
    intruder.execute("UPDATE entries SET payload = NULL WHERE seq = 5")
    found = intruder.verdict()
    assert found is not None
    assert found.seq == 0


def test_a_column_that_is_no_longer_generated_from_the_statement_is_found(intruder: Intruder) -> None:
    (sql,) = intruder.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'")[0]
    altered = sql.replace("'$.body.agent_id'", "'$.body.action_type'")
    assert altered != sql
    intruder.execute("PRAGMA writable_schema = ON")
    intruder.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'entries'", altered)
    intruder.execute("PRAGMA writable_schema = RESET")
    found = intruder.verdict()
    assert found is not None
    assert found.code == "COLUMN_MISMATCH"


def test_dropped_indexes_hide_nothing(intruder: Intruder) -> None:
    intruder.checkpoint(ENTRIES)
    intruder.drop_indexes()
    assert intruder.verdict() is None
    intruder.execute("UPDATE entries SET payload = replace(payload, 'v', 'w') WHERE seq = 6")
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (6, "PAYLOAD_MISMATCH")


def test_bytes_changed_in_the_file_past_its_indexes_are_found(intruder: Intruder) -> None:
    """Not by SQL but in the file: the indexes still say what the rows no longer do."""
    row = f"{intruder.chain.org_id}test".encode()
    intruder.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    intruder.connection.close()
    content = intruder.path.read_bytes()
    places = [match.end() for match in re.finditer(re.escape(row) + rb"[\x02-\x08]?\{\"actor\"", content)]
    assert len(places) == ENTRIES
    named = []
    for end in places:
        start = content.rindex(row, 0, end)
        for place in (start, start + len(row) - 1):
            altered = bytearray(content)
            altered[place] ^= 1
            intruder.path.write_bytes(altered)
            found = intruder.verdict()
            assert found is not None
            named.append(found.seq)
    assert sorted(named) == sorted([*range(1, ENTRIES + 1)] * 2)


@pytest.mark.parametrize("seq", [1, ENTRIES])
def test_the_ends_of_the_chain_can_be_doubled_no_more_than_its_middle(intruder: Intruder, seq: int) -> None:
    intruder.drop_indexes()
    columns = ", ".join(COLUMNS)
    intruder.execute(f"INSERT INTO entries ({columns}) SELECT {columns} FROM entries WHERE seq = ?", seq)
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (seq, "SEQ_REPEATED")


def test_a_row_appended_without_the_right_hash_is_found(intruder: Intruder) -> None:
    statement = _resealed(intruder, ENTRIES, seq=ENTRIES + 1, payload_hash=None, id="new")
    intruder.execute(
        "INSERT INTO entries (org_id, environment, seq, statement, hash) VALUES (?, 'test', ?, ?, ?)",
        intruder.chain.org_id,
        ENTRIES + 1,
        statement,
        "0" * 64,
    )
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (ENTRIES + 1, "CONTENT_MISMATCH")


def test_a_payload_that_went_without_a_redaction_is_found(intruder: Intruder) -> None:
    intruder.execute("UPDATE entries SET payload = NULL WHERE seq = 5")
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (5, "PAYLOAD_ABSENT")


def test_a_rewritten_suffix_holds_together_but_not_with_a_checkpoint(intruder: Intruder) -> None:
    intruder.checkpoint(6)
    _rewrite_from(intruder, 4)
    assert intruder.stretch(SqliteAuditor(intruder.path, 5.0)).broken is None, "the rewriting must be a clean one"

    found = intruder.verdict()

    assert found is not None
    assert (found.seq, found.code) == (6, "INCONSISTENT_WITH_CHECKPOINT")


@pytest.mark.parametrize("kept", [0, 3, ENTRIES - 1])
def test_a_cut_tail_is_found_by_a_checkpoint(intruder: Intruder, kept: int) -> None:
    intruder.checkpoint(ENTRIES)
    intruder.execute("DELETE FROM entries WHERE seq > ?", kept)
    found = intruder.verdict()
    assert found is not None
    assert (found.seq, found.code) == (kept + 1, "TRUNCATED")


def test_a_forged_checkpoint_is_found_by_its_signature(intruder: Intruder) -> None:
    intruder.checkpoint(5)
    _rewrite_from(intruder, 4)
    path = next(intruder.files._folder.iterdir())
    line = json.loads(path.read_text())
    line["hash"] = SqliteAuditor(intruder.path, 5.0).hashes_at(intruder.chain, [5])[0]
    path.write_text(json.dumps(line) + "\n")
    assert SIGNER.holds(Checkpoint(**line)) is False

    found = intruder.verdict()

    assert found is not None
    assert (found.seq, found.code) == (5, "CHECKPOINT_FORGED")


def _resealed(intruder: Intruder, template_seq: int, **changes: object) -> str:
    (statement, previous) = intruder.execute("SELECT statement, hash FROM entries WHERE seq = ?", template_seq)[0]
    fields = json.loads(statement) | {"prev_hash": previous} | changes
    fields["timestamp"] = fields["timestamp"][:-2] + ("1Z" if fields["timestamp"][-2] != "1" else "2Z")
    return canonical(fields).decode()


def _rewrite_from(intruder: Intruder, first: int) -> None:
    """Change an entry and recompute every hash from there on, as an intruder who knows the format would."""
    previous = intruder.execute("SELECT hash FROM entries WHERE seq = ?", first - 1)[0][0]
    for seq in range(first, ENTRIES + 1):
        (statement, key) = intruder.execute("SELECT statement, idempotency_key FROM entries WHERE seq = ?", seq)[0]
        fields = json.loads(statement)
        fields["prev_hash"] = previous
        if seq == first:
            fields["body"]["confidence"] = 0.5
        text = canonical(fields)
        assert parse_statement(text).seq == seq
        previous = sha256(text).hexdigest()
        check = None if key is None else sha256(f"{key}\n{previous}".encode()).hexdigest()
        intruder.execute(
            "UPDATE entries SET statement = ?, hash = ?, idempotency_check = ? WHERE seq = ?",
            text.decode(),
            previous,
            check,
            seq,
        )
