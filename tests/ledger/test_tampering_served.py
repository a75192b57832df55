"""What an intruder did to the database, as the operator learns it: over HTTP, from the command line, in processes."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from precipiq_core.contracts.chain import Chain
from precipiq_core.database.postgres_roles import Roles
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess
from tests.ledger.intruders import Intruder, PostgresCopies, PostgresIntruder, SqliteIntruder

DECISIONS = 12
LAST = DECISIONS + 1  # the first entry is the key's creation
OVERRIDES = {
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_INLINE_ENTRIES_MAX": "0",
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_PROCESSES": "2",
}
IN_PROCESSES = pytest.mark.parametrize("overrides", [{}, OVERRIDES], ids=["inline", "processes"])
VIEW = ("ALTER TABLE entries RENAME TO hidden", "CREATE VIEW entries AS SELECT * FROM hidden WHERE seq < 9")


def decide(server: ServerProcess, count: int) -> None:
    with httpx2.Client(base_url=server.url, headers={"X-Precipiq-Key": server.key}) as http:
        for number in range(count):
            decision = {"agent_id": "a", "action_type": "b", "inputs": {"n": number}, "outputs": {}, "confidence": 1}
            assert http.post("/api/v1/decisions", json=decision).status_code == 201


class Original(ABC):
    """A stopped server with a chain and its checkpoint (one is written when it stops)."""

    def __init__(self, folder: Path, postgres: PostgresDatabase | None) -> None:
        self.server = ServerProcess(folder, postgres=postgres).start()
        decide(self.server, DECISIONS)
        assert self.server.stop() == 0

    @abstractmethod
    def restore(self, copied: ServerProcess) -> None:
        """Give that server the database as it was."""


class SqliteOriginal(Original):
    def restore(self, copied: ServerProcess) -> None:
        for path in copied.data_dir.glob("precipiq.db*"):
            path.unlink()
        for path in self.server.data_dir.glob("precipiq.db*"):
            shutil.copy(path, copied.data_dir)


class PostgresOriginal(Original):
    """There is one copy at a time: the database itself, made anew."""

    def __init__(self, folder: Path, postgres: PostgresDatabase) -> None:
        super().__init__(folder, postgres)
        self.copies = PostgresCopies(postgres)

    def restore(self, copied: ServerProcess) -> None:
        self.copies.restore()


@pytest.fixture(scope="module")
def original(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Original]:
    folder = tmp_path_factory.mktemp("original")
    if database == "sqlite":
        yield SqliteOriginal(folder, None)
        return
    made = PostgresOriginal(folder, request.getfixturevalue("shared_postgres"))
    yield made
    made.copies.drop()


class Copy:
    """A copy of the original's folder and database, stopped."""

    def __init__(self, original: Original, folder: Path, overrides: dict[str, str]) -> None:
        shutil.copytree(original.server.folder, folder)
        self.server = ServerProcess(folder, postgres=original.server.postgres, overrides=overrides)
        self.server.org_id, self.server.key = original.server.org_id, original.server.key
        original.restore(self.server)

    def intruder(self) -> Intruder:
        chain = Chain(self.server.org_id, "test")
        if self.server.postgres is None:
            return SqliteIntruder(self.server.database_file, chain, self.server.folder)
        return PostgresIntruder(self.server.postgres, chain, self.server.folder)

    def intrude(self, *acts: str | Callable[[Intruder], object]) -> None:
        """Statements, or what an intruder does."""
        with closing(self.intruder()) as intruder:
            intruder.drop_triggers()
            for act in acts:
                if isinstance(act, str):
                    intruder.execute(act)
                else:
                    act(intruder)

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
def copy(original: Original, tmp_path: Path) -> Callable[..., Copy]:
    return lambda overrides: Copy(original, tmp_path / "copy", overrides)


def place(document: dict[str, Any]) -> tuple[int, str]:
    broken = document["first_broken_link"]
    return broken["seq"], broken["code"]


@IN_PROCESSES
def test_an_intact_chain_exits_0(copy: Callable[..., Copy], overrides: dict[str, str]) -> None:
    code, document = copy(overrides).verify()
    assert (code, document["is_valid"], document["verdict"]) == (0, True, "checkpointed")
    assert (document["records_checked"], document["head"]["seq"], document["unchecked"]) == (LAST, LAST, [])


def other_payload(intruder: Intruder) -> None:
    [payload] = intruder.get(5, "payload")
    assert b'"n":3' in payload
    intruder.set(5, payload=payload.replace(b'"n":3', b'"n":4'))


def other_hash(intruder: Intruder) -> None:
    [digest] = intruder.get(7, "hash")
    intruder.set(7, hash=("0" if digest[0] != "0" else "1") + digest[1:])


def last_below_the_first(intruder: Intruder) -> None:
    intruder.drop_constraints()
    intruder.set(LAST, seq=0)


ACTS: dict[str, tuple[Callable[[Intruder], object], tuple[int, str], dict[str, str]]] = {
    "other payload": (other_payload, (5, "PAYLOAD_MISMATCH"), {}),
    "deleted": (lambda intruder: intruder.remove(6, 6), (6, "SEQ_GAP"), OVERRIDES),
    "other hash": (other_hash, (7, "CONTENT_MISMATCH"), OVERRIDES),
    "other key": (lambda intruder: intruder.set(8, idempotency_key=b"x"), (8, "COLUMN_MISMATCH"), {}),
    "moved away": (lambda intruder: intruder.set(LAST, seq=LAST + 9), (LAST, "SEQ_GAP"), OVERRIDES),
    "below the first": (last_below_the_first, (0, "POSITION_MISMATCH"), OVERRIDES),
    "filed elsewhere": (lambda intruder: intruder.set(LAST, environment="live"), (LAST, "FILED_ELSEWHERE"), {}),
    "cut": (lambda intruder: intruder.remove(LAST), (LAST, "TRUNCATED"), OVERRIDES),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_broken_chain_exits_1_and_names_the_entry(copy: Callable[..., Copy], act: str) -> None:
    """With two processes the chain of 13 is split after entry 6, so both sides of the border are among these."""
    alter, expected, overrides = ACTS[act]
    copied = copy(overrides)
    copied.intrude(alter)
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (1, False, "failed")
    assert place(document) == expected
    assert document["reason"] == document["first_broken_link"]["reason"]


def test_a_table_that_is_gone_could_not_be_checked(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.intrude("DROP TABLE entries")
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (2, None, "could_not_check")


def test_a_table_that_is_damaged_or_withheld_could_not_be_checked(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    if copied.server.postgres is None:
        content = copied.server.database_file.read_bytes()
        copied.server.database_file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    else:
        copied.intrude(f'REVOKE SELECT ON entries FROM "{Roles(copied.server.postgres.runtime_role).auditor}"')
    code, document = copied.verify()
    assert (code, document["is_valid"]) == (2, None)


def test_a_table_replaced_by_a_view_is_not_called_valid(copy: Callable[..., Copy], database: str) -> None:
    """On PostgreSQL the auditor may not even read it."""
    copied = copy({})
    copied.intrude(*VIEW)
    code, document = copied.verify()
    assert code == (1 if database == "sqlite" else 2), document
    assert not document["is_valid"]


def test_a_forged_checkpoint_exits_1(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    line = json.loads(copied.checkpoint_file.read_text().splitlines()[-1])
    copied.checkpoint_file.write_text(json.dumps({**line, "time": "2030-01-01T00:00:00.000000Z"}) + "\n")
    code, document = copied.verify()
    assert (code, place(document)) == (1, (LAST, "CHECKPOINT_FORGED"))


def test_without_checkpoints_the_verdict_says_that_nothing_speaks_for_the_chain(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.checkpoint_file.unlink()
    if copied.server.postgres is not None:  # where nodes give each other their checkpoints
        copied.intrude("DELETE FROM ledger_checkpoints")
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (0, True, "unanchored")
    assert document["checkpoints"] == {"compared": 0, "signatures_checked": 0, "newest_seq": None}
    assert any("no checkpoint" in sentence for sentence in document["unchecked"])


def test_the_terminal_shows_what_the_json_says(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    arguments = ("ledger", "verify", "--org", copied.server.org_id, "--env", "test")
    assert "intact: 13 entries" in copied.server.run(*arguments).stdout
    copied.intrude(lambda intruder: intruder.remove(6, 6))
    done = copied.server.run(*arguments, check=False)
    assert (done.returncode, "BROKEN at entry 6" in done.stdout, "SEQ_GAP" in done.stdout) == (1, True, True)


def verify_over_http(server: ServerProcess) -> dict[str, Any]:
    url = f"{server.url}/api/v1/decisions/chain/verify"
    answer = httpx2.get(url, headers={"X-Precipiq-Key": server.key}, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["data"])


@pytest.fixture
def restored(original: Original, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that went on for a while and then got its old database back."""
    copied = Copy(original, tmp_path / "copy", OVERRIDES).server
    copied.start()
    decide(copied, 4)
    assert copied.stop() == 0
    original.restore(copied)
    copied.start()
    yield copied
    copied.kill()


def test_a_restored_old_copy_is_found_over_http_and_cried_out_at_the_start(restored: ServerProcess) -> None:
    assert place(verify_over_http(restored)) == (LAST + 1, "TRUNCATED")
    cried = [line for line in restored.log_lines() if "shorter than a checkpoint" in str(line.get("event"))]
    assert [(line["head_seq"], line["checkpoint_seq"]) for line in cried] == [(LAST, LAST + 4)]

    decide(restored, 6)  # new entries where the lost ones were do not hide it

    assert place(verify_over_http(restored)) == (LAST + 4, "INCONSISTENT_WITH_CHECKPOINT")


def hide(intruder: Intruder) -> None:
    """Everything from entry 9 on, from the server too."""
    if isinstance(intruder, PostgresIntruder):
        intruder.execute("CREATE POLICY hides ON entries AS RESTRICTIVE USING (seq < 9)")
    else:
        for statement in VIEW:
            intruder.execute(statement)


@IN_PROCESSES
def test_what_is_found_over_http(copy: Callable[..., Copy], overrides: dict[str, str]) -> None:
    copied = copy(overrides)
    server = copied.server.start()
    try:
        assert verify_over_http(server)["is_valid"]
        for act, expected in (
            (other_payload, (5, "PAYLOAD_MISMATCH")),
            (lambda intruder: intruder.set(4, hash="0" * 64), (4, "CONTENT_MISMATCH")),
            (lambda intruder: intruder.remove(2, 3), (2, "SEQ_GAP")),
        ):
            copied.intrude(act)
            assert place(verify_over_http(server)) == expected
        copied.intrude(hide)
        assert place(verify_over_http(server))[0] == 1
    finally:
        server.kill()
