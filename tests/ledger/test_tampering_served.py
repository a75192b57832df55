"""What an intruder did to the database, as the operator learns it: over HTTP, from the command line, in processes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess

DECISIONS = 12
LAST = DECISIONS + 1  # the first entry is the key's creation
OVERRIDES = {
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_INLINE_ENTRIES_MAX": "0",
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_PROCESSES": "2",
}
IN_PROCESSES = pytest.mark.parametrize("overrides", [{}, OVERRIDES], ids=["inline", "processes"])


def decide(server: ServerProcess, count: int) -> None:
    with httpx2.Client(base_url=server.url, headers={"X-Precipiq-Key": server.key}) as http:
        for number in range(count):
            decision = {"agent_id": "a", "action_type": "b", "inputs": {"n": number}, "outputs": {}, "confidence": 1}
            assert http.post("/api/v1/decisions", json=decision).status_code == 201


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A stopped server with a chain and its checkpoint (one is written when it stops)."""
    server = ServerProcess(tmp_path_factory.mktemp("original")).start()
    decide(server, DECISIONS)
    assert server.stop() == 0
    return server


class Copy:
    """A copy of the original's folder, stopped."""

    def __init__(self, original: ServerProcess, folder: Path, overrides: dict[str, str]) -> None:
        shutil.copytree(original.folder, folder)
        self.server = ServerProcess(folder, overrides=overrides)
        self.server.org_id, self.server.key = original.org_id, original.key

    def intrude(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.server.database_file, isolation_level=None)) as connection:
            sql = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for (name,) in connection.execute(sql).fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                connection.execute(statement)

    @property
    def checkpoint_file(self) -> Path:
        [path] = (self.server.data_dir / "checkpoints").iterdir()
        return path

    def verify(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code and the one JSON document of ``ledger verify --json``."""
        arguments = ("ledger", "verify", "--org", self.server.org_id, "--env", "test", "--json", *options)
        done = self.server.run(*arguments, check=False)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def copy(original: ServerProcess, tmp_path: Path) -> Callable[..., Copy]:
    return lambda overrides: Copy(original, tmp_path / "copy", overrides)


def place(document: dict[str, Any]) -> tuple[int, str]:
    broken = document["first_broken_link"]
    return broken["seq"], broken["code"]


@IN_PROCESSES
def test_an_intact_chain_exits_0(copy: Callable[..., Copy], overrides: dict[str, str]) -> None:
    code, document = copy(overrides).verify()
    assert (code, document["is_valid"], document["verdict"]) == (0, True, "checkpointed")
    assert (document["records_checked"], document["head"]["seq"], document["unchecked"]) == (LAST, LAST, [])


@IN_PROCESSES
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE entries SET payload = replace(payload, '\"n\":3', '\"n\":4') WHERE seq = 5", (5, "PAYLOAD_MISMATCH")),
        ("DELETE FROM entries WHERE seq = 6", (6, "SEQ_GAP")),
        ("UPDATE entries SET hash = replace(hash, 'a', 'b') WHERE seq = 7", (7, "CONTENT_MISMATCH")),
        ("UPDATE entries SET seq = 'x' WHERE seq = 13", (13, "SEQ_GAP")),
        ("UPDATE entries SET seq = 0 WHERE seq = 13", (0, "POSITION_MISMATCH")),
        (f"DELETE FROM entries WHERE seq = {LAST}", (LAST, "TRUNCATED")),
    ],
)
def test_a_broken_chain_exits_1_and_names_the_entry(
    copy: Callable[..., Copy], overrides: dict[str, str], statement: str, expected: tuple[int, str]
) -> None:
    """With two processes the chain of 13 is split after entry 6, so both sides of the border are among these."""
    copied = copy(overrides)
    copied.intrude(statement)
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (1, False, "failed")
    assert place(document) == expected
    assert document["reason"] == document["first_broken_link"]["reason"]


def test_a_table_that_is_gone_could_not_be_checked(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.intrude("DROP TABLE entries")
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (2, None, "could_not_check")


def test_a_damaged_file_could_not_be_checked(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    content = copied.server.database_file.read_bytes()
    copied.server.database_file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    code, document = copied.verify()
    assert (code, document["is_valid"]) == (2, None)


def test_a_table_replaced_by_a_view_is_found(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.intrude("ALTER TABLE entries RENAME TO hidden", "CREATE VIEW entries AS SELECT * FROM hidden WHERE seq < 9")
    code, document = copied.verify()
    assert code == 1, document


def test_a_forged_checkpoint_exits_1(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    line = json.loads(copied.checkpoint_file.read_text().splitlines()[-1])
    copied.checkpoint_file.write_text(json.dumps({**line, "time": "2030-01-01T00:00:00.000000Z"}) + "\n")
    code, document = copied.verify()
    assert (code, place(document)) == (1, (LAST, "CHECKPOINT_FORGED"))


def test_without_checkpoints_the_verdict_says_that_nothing_speaks_for_the_chain(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.checkpoint_file.unlink()
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (0, True, "unanchored")
    assert document["checkpoints"] == {"compared": 0, "signatures_checked": 0, "newest_seq": None}
    assert any("no checkpoint" in sentence for sentence in document["unchecked"])


def test_the_terminal_shows_what_the_json_says(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    arguments = ("ledger", "verify", "--org", copied.server.org_id, "--env", "test")
    assert "intact: 13 entries" in copied.server.run(*arguments).stdout
    copied.intrude("DELETE FROM entries WHERE seq = 6")
    done = copied.server.run(*arguments, check=False)
    assert (done.returncode, "BROKEN at entry 6" in done.stdout, "SEQ_GAP" in done.stdout) == (1, True, True)


@pytest.fixture
def restored(original: ServerProcess, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that went on for a while and then got its old database back."""
    copied = Copy(original, tmp_path / "copy", OVERRIDES).server
    old = tmp_path / "old.db"
    shutil.copy(copied.database_file, old)
    copied.start()
    decide(copied, 4)
    assert copied.stop() == 0
    for path in copied.data_dir.glob("precipiq.db*"):
        path.unlink()
    shutil.copy(old, copied.database_file)
    copied.start()
    yield copied
    copied.kill()


def test_a_restored_old_copy_is_found_over_http_and_cried_out_at_the_start(restored: ServerProcess) -> None:
    def verify() -> dict[str, Any]:
        answer = httpx2.get(f"{restored.url}/api/v1/decisions/chain/verify", headers={"X-Precipiq-Key": restored.key})
        assert answer.status_code == 200
        return dict(answer.json()["data"])

    assert place(verify()) == (LAST + 1, "TRUNCATED")
    cried = [line for line in restored.log_lines() if "shorter than a checkpoint" in str(line.get("event"))]
    assert [(line["head_seq"], line["checkpoint_seq"]) for line in cried] == [(LAST, LAST + 4)]

    decide(restored, 6)  # new entries where the lost ones were do not hide it

    assert place(verify()) == (LAST + 4, "INCONSISTENT_WITH_CHECKPOINT")


@IN_PROCESSES
def test_what_is_found_over_http(copy: Callable[..., Copy], overrides: dict[str, str]) -> None:
    server = copy(overrides).server.start()
    try:
        connection = sqlite3.connect(server.database_file, isolation_level=None, timeout=10)
        with closing(connection):
            connection.execute("DROP TRIGGER entries_are_never_changed")
            connection.execute("UPDATE entries SET statement = replace(statement, '1', '2') WHERE seq = 7")
        answer = httpx2.get(f"{server.url}/api/v1/decisions/chain/verify", headers={"X-Precipiq-Key": server.key})
        assert answer.status_code == 200
        assert place(answer.json()["data"])[0] == 7
    finally:
        server.kill()
