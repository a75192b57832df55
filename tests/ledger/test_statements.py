"""Statements read alone are those that are read with the rest, in the same order, and bounded in bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.entry_store import EntryStore
from precipiq_ledger.statements import statements_of
from precipiq_sqlite.entries.statements import read_statements
from precipiq_testkit.postgres import PostgresDatabase
from tests.system.open_ledger import open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

CHAIN, OTHER = Chain("org_alpha", "live"), Chain("org_alpha", "test")
STRANGE = {"agent_id": "nul \0, Zoë 🚀\n\r\u2028\x85", "action_type": '"quoted" \\ \n', "confidence": 2**70}


def draft(number: int) -> Draft:
    body = STRANGE if number == 7 else {"agent_id": f"agent {number}"}
    return Draft("decision", "key\n", body, {"inputs": {"text": "secret\n" * number}})


async def test_they_are_those_of_the_entries(server_database: PostgresDatabase | None, tmp_path: Path) -> None:
    async with open_ledger(server_database, tmp_path, []) as (_, ledger):
        serve_kinds(ledger, [])
        assert await ledger.statements(CHAIN, 0, 10, 1000) == ([], 0)
        for start in range(0, 1100, 100):
            await ledger.append(CHAIN, [draft(number) for number in range(start, start + 100)])
        await ledger.append(OTHER, [draft(0)])
        whole = [entry.statement for entry in await ledger.read(CHAIN, 0, 2000)]
        assert len(whole) == 1100
        for after, limit in ((0, 1), (0, 10), (3, 700), (0, 5000), (1099, 5), (1100, 5), (5000, 5)):
            found, last_seq = await ledger.statements(CHAIN, after, limit, 10**9)
            assert list(found) == whole[after : after + limit], (after, limit)
            assert last_seq == (after + len(found) if found else after)
        found, last_seq = await ledger.statements(CHAIN, 5, 5000, 1)
        assert list(found) == whole[5:last_seq]
        assert 0 < len(found) <= 500


def table(statements: Sequence[object]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE entries (seq, statement)")
    connection.executemany("INSERT INTO entries VALUES (?, ?)", list(enumerate(statements, 1)))
    return connection


@pytest.mark.parametrize("odd", [None, "two\nlines", "\n"])
def test_rows_that_no_server_wrote_are_left_to_the_reading_of_each(odd: object) -> None:
    assert read_statements(table(["a", "b"]), 0, 10, 100) == ([b"a", b"b"], 2)
    assert read_statements(table(["a", odd, "b"]), 0, 10, 100) is None


class Store:
    """A store of these entries; ``told``: what it tells as statements alone."""

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return [
            Entry(chain, seq, "", b"%d" % seq, None) for seq in range(after_seq + 1, min(after_seq + limit, 60) + 1)
        ]


class OddStore(Store):
    async def statements(self, *arguments: Any) -> None:
        return None


@pytest.mark.parametrize("store", [Store(), OddStore()])
async def test_a_store_that_cannot_reads_entries(store: EntryStore) -> None:
    found, last_seq = await statements_of(store, CHAIN, 2, 40, 10**6)
    assert (list(found), last_seq) == ([b"%d" % seq for seq in range(3, 43)], 42)
    assert await statements_of(store, CHAIN, 60, 40, 10**6) == ([], 60)
