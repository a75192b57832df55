"""An index that was emptied behind its definition is found, at any share of a core, and the check can be broken off."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from precipiq_contracts.errors import Unavailable
from precipiq_sqlite.index_check import IndexCheck
from tests.database.intruder import hollow_index

ROWS = 3000
MAKE = "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER AS (length(name)) VIRTUAL)"
INDEX = "CREATE INDEX things_name ON things (name)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "things.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(MAKE)
        connection.execute(INDEX)
        connection.execute("CREATE INDEX things_size ON things (size) WHERE size > 3")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO things (name) VALUES (?)", [(f"thing {n}",) for n in range(ROWS)])
        connection.execute("COMMIT")
    return path


def test_a_whole_file_has_no_problem(path: Path) -> None:
    assert IndexCheck(path, 1.0).run() == []


@pytest.mark.parametrize("hides", ["1", "name = 'thing 7'"])
def test_a_hollow_index_is_found(path: Path, hides: str) -> None:
    hollow_index(path, "things_name", hides)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM things WHERE name = 'thing 7'").fetchall() == []
        sql = "SELECT sql FROM sqlite_master WHERE name = 'things_name'"
        assert connection.execute(sql).fetchall() == [(INDEX,)]
    problems = IndexCheck(path, 1.0).run()
    assert problems
    assert all("things_name" in problem for problem in problems)


def test_a_damaged_file_is_a_problem(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 4096)
    assert IndexCheck(path, 1.0).run()


def test_it_can_be_broken_off_and_writers_go_on_meanwhile(path: Path) -> None:
    check = IndexCheck(path, 0.0001)

    async def scenario() -> None:
        running = asyncio.create_task(asyncio.to_thread(check.run))
        await asyncio.sleep(0.2)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("INSERT INTO things (name) VALUES ('new')")
        assert not running.done()
        check.stop()
        with pytest.raises(Unavailable, match="not checked"):
            await running

    began = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - began < 60
