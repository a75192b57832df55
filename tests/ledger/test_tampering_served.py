"""What an intruder did to the database, as the operator learns it: over HTTP, from the command line, in processes.

Most tests call the command in this process; one of each exit code runs it as the operator does.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from precipiq_contracts.chain import Chain
from precipiq_core.boot import assemble
from precipiq_core.cli.context import CliContext, TerminalConsole
from precipiq_core.cli.main import cli
from precipiq_core.deployment import load_deployment
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_postgres.roles import Roles
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess
from tests.ledger.intruders import Intruder, PostgresCopies, PostgresIntruder, intruder_of

pytestmark = pytest.mark.slow

DECISIONS = 12
LAST = DECISIONS + 1  # the first entry is the key's creation
OVERRIDES = {
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_INLINE_ENTRIES_MAX": "0",
    "PRECIPIQ__PLUGINS__LEDGER__VERIFY_PROCESSES": "2",
}
VIEW = ("ALTER TABLE entries RENAME TO hidden", "CREATE VIEW entries AS SELECT * FROM hidden WHERE seq < 9")


def decide(server: ServerProcess, count: int) -> None:
    with httpx2.Client(base_url=server.url, headers={"X-Precipiq-Key": server.key}) as http:
        for number in range(count):
            decision = {"agent_id": "a", "action_type": "b", "inputs": {"n": number}, "outputs": {}, "confidence": 1}
            assert http.post("/api/v1/decisions", json=decision).status_code == 201


class Original(ABC):
    """A stopped server with a chain and its checkpoint (one is written when it stops)."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        decide(server, DECISIONS)
        assert server.stop() == 0

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

    def __init__(self, server: ServerProcess, postgres: PostgresDatabase) -> None:
        super().__init__(server)
        self.copies = PostgresCopies(postgres)

    def restore(self, copied: ServerProcess) -> None:
        self.copies.restore()


@pytest.fixture(scope="module")
def original(shared_server: ServerProcess) -> Iterator[Original]:
    if shared_server.postgres is None:
        yield SqliteOriginal(shared_server)
        return
    made = PostgresOriginal(shared_server, shared_server.postgres)
    yield made
    made.copies.drop()


class Copy:
    """A copy of the original's folder and database, stopped."""

    def __init__(self, original: Original, folder: Path, overrides: dict[str, str]) -> None:
        shutil.copytree(original.server.folder, folder)
        self.server = ServerProcess(folder, postgres=original.server.postgres, overrides=overrides)
        self.server.org_id, self.server.key = original.server.org_id, original.server.key
        self.overrides = overrides
        original.restore(self.server)

    def intruder(self) -> Intruder:
        return intruder_of(self.server, Chain(self.server.org_id, "test"), self.server.folder)

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
        [path] = (self.server.data_dir / "checkpoints").glob("*.jsonl")
        return path

    @property
    def verification(self) -> tuple[str, ...]:
        """The command."""
        return ("ledger", "verify", "--org", self.server.org_id, "--env", "test")

    def verify(self) -> tuple[int, dict[str, Any]]:
        """Exit code and the one JSON document of ``ledger verify --json``."""
        deployment = load_deployment(self.server.config, os.environ | self.overrides)
        here = {"clock": SystemClock(), "randomness": SystemRandomness(), "console": TerminalConsole()}
        assembly = assemble(deployment, serving=False, **here)  # type: ignore[arg-type]
        with capture_logs():
            done = CliRunner().invoke(cli, [*self.verification, "--json"], obj=CliContext(assembly))
        return done.exit_code, json.loads(done.stdout)

    def verify_in_a_process(self) -> tuple[int, dict[str, Any]]:
        """The same, from the shell."""
        done = self.server.run(*self.verification, "--json", check=False)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def copy(original: Original, tmp_path: Path) -> Callable[..., Copy]:
    return lambda overrides: Copy(original, tmp_path / "copy", overrides)


def place(document: dict[str, Any]) -> tuple[int, str]:
    broken = document["first_broken_link"]
    return broken["seq"], broken["code"]


def test_an_intact_chain_exits_0(copy: Callable[..., Copy]) -> None:
    code, document = copy(OVERRIDES).verify()
    assert (code, document["is_valid"], document["verdict"]) == (0, True, "checkpointed")
    assert (document["records_checked"], document["head"]["seq"], document["unchecked"]) == (LAST, LAST, [])
    [anchor] = document["anchors"]
    assert (anchor["kind"], anchor["newest_seq"], document["findings"]) == ("checkpoint", LAST, [])
    could = {(each["threat"], each["act"]): each["from_seq"] for each in document["forgeable"]}
    assert (could["T1", "make"], could["T1", "remove"], could["T3", "make"]) == (None, LAST + 1, 1)


def test_an_unknown_chain_exits_2_and_says_that_nothing_was_checked(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.server.org_id = "org_nobody"
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (2, None, "could_not_check")
    assert [finding["code"] for finding in document["findings"]] == ["CHECKED_ZERO"]
    assert "there is no entry of org_nobody" in document["reason"]


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
    code, document = copied.verify_in_a_process()
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


def test_a_young_chain_without_any_folder_of_checkpoints_is_unanchored(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    shutil.rmtree(copied.server.data_dir / "checkpoints")
    code, document = copied.verify()
    assert (code, document["is_valid"], document["verdict"]) == (0, True, "unanchored")
    assert document["checkpoints"] == {
        "compared": 0,
        "signatures_checked": 0,
        "newest_seq": None,
        "newest_time": None,
        "newest_age_s": None,
        "findings": [],
    }
    assert any("no checkpoint" in sentence for sentence in document["unchecked"])


def test_a_removed_file_of_checkpoints_exits_1(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.checkpoint_file.unlink()
    code, document = copied.verify()
    assert (code, document["verdict"], place(document)) == (1, "failed", (LAST, "CHECKPOINTS_LOST"))
    assert "what to do: restore the file" in copied.server.run(*copied.verification, check=False).stdout


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_terminal_shows_what_the_json_says(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    said = copied.server.run(*copied.verification).stdout
    assert "intact: 13 entries" in said
    assert "verdict: checkpointed, 1 checkpoints compared" in said
    assert "a thief (T1) could make no entry: " in said
    assert "a thief (T1) could remove entries 14 and all after: " in said
    assert "a thief (T2) could remove entries 1 and all after, at worst: " in said
    copied.intrude(lambda intruder: intruder.remove(6, 6))
    done = copied.server.run(*copied.verification, check=False)
    assert (done.returncode, "BROKEN at entry 6" in done.stdout, "SEQ_GAP" in done.stdout) == (1, True, True)
    assert "verdict: failed" in done.stdout
    assert "a thief" not in done.stdout
    unknown = ("ledger", "verify", "--org", "org_nobody", "--env", "test")
    said = copied.server.run(*unknown, check=False).stderr
    assert said.startswith("error: could not check: CHECKED_ZERO: there is no entry of org_nobody"), said


@contextmanager
def serving(server: ServerProcess) -> Iterator[ServerProcess]:
    try:
        yield server.start()
    finally:
        server.kill()


def verify_over_http(server: ServerProcess) -> dict[str, Any]:
    url = f"{server.url}/api/v1/decisions/chain/verify"
    answer = httpx2.get(url, headers={"X-Precipiq-Key": server.key}, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["data"])


def test_a_restored_old_copy_is_found_over_http_and_cried_out_at_the_start(copy: Callable[..., Copy]) -> None:
    copied = copy({})
    copied.intrude(lambda intruder: intruder.remove(LAST - 3))
    if copied.server.postgres is not None:
        copied.intrude("DELETE FROM ledger_checkpoints")
    with serving(copied.server) as restored:
        assert place(verify_over_http(restored)) == (LAST - 3, "TRUNCATED")
        cried = [line for line in restored.log_lines() if "shorter than a checkpoint" in str(line.get("event"))]
        assert [(line["head_seq"], line["checkpoint_seq"]) for line in cried] == [(LAST - 4, LAST)]

        decide(restored, 6)  # new entries where the lost ones were do not hide it

        assert place(verify_over_http(restored)) == (LAST, "INCONSISTENT_WITH_CHECKPOINT")


def hide(intruder: Intruder) -> None:
    """Everything from entry 9 on, from the server too."""
    if isinstance(intruder, PostgresIntruder):
        intruder.execute("CREATE POLICY hides ON entries AS RESTRICTIVE USING (seq < 9)")
    else:
        for statement in VIEW:
            intruder.execute(statement)


def test_what_is_found_over_http(copy: Callable[..., Copy]) -> None:
    copied = copy(OVERRIDES)
    with serving(copied.server) as server:
        found = verify_over_http(server)
        assert (found["is_valid"], found["verdict"], found["anchors"][0]["newest_seq"]) == (True, "checkpointed", LAST)
        with httpx2.Client(base_url=f"{server.url}/api/v1", headers={"X-Precipiq-Key": server.key}) as http:
            swept = http.get("/ledger/integrity").json()["data"]
            assert found.keys() & swept.keys() >= {"verdict", "findings", "anchors", "not_checked", "forgeable"}
            assert http.get(f"/decisions/chain/verify?from_seq={LAST + 1}").status_code == 422
        for act, expected in (
            (other_payload, (5, "PAYLOAD_MISMATCH")),
            (lambda intruder: intruder.set(4, hash="0" * 64), (4, "CONTENT_MISMATCH")),
            (lambda intruder: intruder.remove(2, 3), (2, "SEQ_GAP")),
        ):
            copied.intrude(act)
            assert place(verify_over_http(server)) == expected
        copied.intrude(hide)
        assert place(verify_over_http(server))[0] == 1
