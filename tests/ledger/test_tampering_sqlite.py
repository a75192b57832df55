"""What only an intruder in an SQLite file can do: to what is generated, and to bytes past the indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.intruders import CHAIN, ENTRIES, REDACTED, Original, SqliteIntruder, sqlite_original


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    with sqlite_original(tmp_path_factory.mktemp("original")) as made:
        yield made


@pytest.fixture
def intruder(original: Original, tmp_path: Path) -> Iterator[SqliteIntruder]:
    intruder = original.fresh(tmp_path)
    assert isinstance(intruder, SqliteIntruder)
    intruder.drop_triggers()
    yield intruder
    intruder.close()


def test_a_column_that_is_no_longer_generated_from_the_statement_is_found(intruder: SqliteIntruder) -> None:
    [(sql,)] = intruder.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'")
    altered = sql.replace("'$.body.agent_id'", "'$.body.action_type'")
    assert altered != sql
    intruder.execute("PRAGMA writable_schema = ON")
    intruder.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'entries'", altered)
    intruder.execute("PRAGMA writable_schema = RESET")
    assert intruder.found() == (1, "COLUMN_MISMATCH")


def test_bytes_changed_in_the_file_past_its_indexes_are_found(intruder: SqliteIntruder) -> None:
    """Not by SQL but in the file: the indexes still say what the rows no longer do."""
    row = f"{CHAIN.org_id}{CHAIN.environment}".encode()
    intruder.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    intruder.close()
    content = intruder.path.read_bytes()
    places = [match.end() for match in re.finditer(re.escape(row) + rb"[\x02-\x09]?\{\"actor\"", content)]
    assert len(places) == ENTRIES
    named = []
    for end in places:
        start = content.rindex(row, 0, end)
        for place in (start, start + len(row) - 1):
            altered = bytearray(content)
            altered[place] ^= 1
            intruder.path.write_bytes(altered)
            found = intruder.found()
            assert found is not None
            named.append(found[0])
    assert set(named) - {REDACTED} == set(range(1, ENTRIES + 1)) - {REDACTED}
