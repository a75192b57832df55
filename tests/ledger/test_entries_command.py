"""``precipiq ledger entries``: the raw entries of a chain as JSON lines, beside a server that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_testkit.plugin import use_database
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client

pytestmark = pytest.mark.system

DECISIONS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With some entries; over SQLite alone, since the command reads them through the ledger."""
    with running_server(tmp_path_factory.mktemp("server")) as started:
        client = Client(started)
        for number in range(DECISIONS):
            client.decide(number)
        yield started


@pytest.fixture
def postgres_site(
    migrated_postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The same over PostgreSQL: SQLite would need files larger than a limit on files allows."""
    with (
        use_database(migrated_postgres.copy(), monkeypatch) as database,
        running_server(tmp_path_factory.mktemp("server"), postgres=database) as started,
    ):
        client = Client(started)
        for number in range(DECISIONS):
            client.decide(number, metadata={"padding": "x" * 5000})
        yield started


def lines(text: str) -> list[object]:
    return [json.loads(line) for line in text.splitlines()]


def test_they_are_the_entries_that_the_api_shows(server: ServerProcess, tmp_path: Path) -> None:
    chain = ("--org", server.org_id, "--env", "test")
    shown = Client(server).entries()
    file = tmp_path / "entries.jsonl"
    all_of_them = server.run("ledger", "entries", *chain)
    last = server.run("ledger", "entries", *chain, "--after-seq", str(len(shown) - 1), "--output", str(file))

    assert (lines(all_of_them.stdout), all_of_them.stderr) == (shown, f"{len(shown)} entries\n")
    assert (lines(file.read_text()), last.stdout, last.stderr) == (shown[-1:], "", "1 entries\n")


def limited(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that can make no file larger than 2 KiB, as on a disk that is full."""
    command = [sys.executable, "-m", "precipiq_core.cli", "ledger", "entries", *arguments]
    return subprocess.run(
        ["bash", "-c", 'ulimit -f 2; exec "$@"', "-", *command],
        env={**os.environ, "PRECIPIQ_CONFIG": str(server.config)},
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_file_that_cannot_be_written_whole_is_not_there(postgres_site: ServerProcess, tmp_path: Path) -> None:
    chain = ("--org", postgres_site.org_id, "--env", "test")
    new, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    old.write_text("as before")
    for file in (new, old):
        failed = limited(postgres_site, *chain, "--output", str(file))
        assert (failed.returncode, "File too large" in failed.stderr) == (2, True), failed.stderr
    assert (old.read_text(), [path.name for path in tmp_path.iterdir()]) == ("as before", ["old.jsonl"])
    wrong = postgres_site.run("ledger", "entries", "--org", "org_x", "--env", "test", "--output", str(new), check=False)
    assert (wrong.returncode, new.exists()) == (2, False)


def test_a_pipe_gets_the_entries_as_they_are_read(server: ServerProcess, tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.extend(pipe.read_bytes()))
    reader.start()
    server.run("ledger", "entries", "--org", server.org_id, "--env", "test", "--output", str(pipe))
    reader.join(30)
    assert lines(got.decode()) == Client(server).entries()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("command", ["entries", "verify"])
def test_a_terminal_gets_a_progress_bar_beside_the_output(server: ServerProcess, command: str) -> None:
    arguments = ["-m", "precipiq_core.cli", "ledger", command, "--org", server.org_id, "--env", "test"]
    terminal, other_end = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "PRECIPIQ_CONFIG": str(server.config)}
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=other_end,
        env=environment,
        cwd=server.folder,
        timeout=60,
        check=True,
    )
    os.close(other_end)
    drawn = os.read(terminal, 65536).decode()
    os.close(terminal)

    count = len(Client(server).entries())
    assert f"{count}/{count}" in drawn
    assert b"\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == count or command == "verify"
