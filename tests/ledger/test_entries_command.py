"""``precipiq ledger entries``: the raw entries of a chain as JSON lines, beside a server that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
