"""Upgrades without a pause: servers of the version before write on while the database is migrated, and nothing fails.

Once with a made-up version after this one, and once with the newest committed version whose schema was another one.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_testkit import postgres as testkit
from precipiq_testkit.sealing import Writer
from precipiq_testkit.server import ServerProcess, running_server
from tests.old_version import code_of, git

from .plugins import ALPHA, COLUMNS, KEYS, LEDGER, new_database, opened, write_revision

pytestmark = pytest.mark.slow

MIGRATIONS = [f"plugins/{plugin}/precipiq_{plugin}/sql/migrations" for plugin in ("ledger", "postgres", "auth_keys")]
# Where PostgreSQL was and is spoken to: a version without either had none.
POSTGRES = ("core/precipiq_core/database", "plugins/postgres")


class Client(threading.Thread):
    """Writes decisions to one server until told to stop; whatever is not acknowledged is a failure."""

    def __init__(self, server: ServerProcess, key: str) -> None:
        super().__init__(daemon=True)
        self.server, self.key = server, key
        self.hashes: dict[str, str] = {}
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        body = {"agent_id": "upgrade", "action_type": "write", "inputs": {}, "outputs": {}, "confidence": 0.5}
        with httpx2.Client(base_url=self.server.url, headers={"X-Precipiq-Key": self.key}, timeout=60) as http:
            while not self.stopped.is_set():
                try:
                    answer = http.post("/api/v1/decisions", json=body)
                except httpx2.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code != 201:
                    self.failures.append(f"{answer.status_code} {answer.text}")
                    continue
                receipt = json.loads(answer.text)["data"]
                self.hashes[receipt["decision_id"]] = receipt["hash"]
                self.stopped.wait(0.01)

    def wait_for(self, count: int) -> None:
        """Until it wrote that many more."""
        goal = len(self.hashes) + count
        while len(self.hashes) < goal and not self.failures and self.is_alive():
            self.stopped.wait(0.01)


@contextmanager
def writing(*servers: ServerProcess, key: str) -> Iterator[list[Client]]:
    """Writers to these servers, who must all have succeeded with everything."""
    writers = [Client(server, key) for server in servers]
    try:
        for writer in writers:
            writer.wait_for(5)
        yield writers
        for writer in writers:
            writer.wait_for(5)
    finally:
        for writer in writers:
            writer.stopped.set()
        for writer in writers:
            writer.join(40)
    for writer in writers:
        said = [line for line in writer.server.log_lines() if line.get("level") not in ("info", "debug")]
        assert writer.failures == [], (len(writer.hashes), writer.server.folder.name, said[-5:])
        assert len(writer.hashes) >= 10


@contextmanager
def two_servers(folder: Path, postgres: testkit.PostgresDatabase) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two nodes of one deployment; the first has the key."""
    with ExitStack() as stack:
        first = stack.enter_context(running_server(folder / "first", postgres=postgres))
        (folder / "second" / "data").mkdir(parents=True)
        shutil.copy(first.data_dir / "master.key", folder / "second" / "data")
        second = stack.enter_context(running_server(folder / "second", postgres=postgres))
        yield first, second


def assert_whole(server: ServerProcess, key: str, writers: list[Client]) -> None:
    """The server verifies the chain, and what was acknowledged is in it."""
    with httpx2.Client(base_url=server.url, headers={"X-Precipiq-Key": key}, timeout=60) as http:
        verified = json.loads(http.get("/api/v1/decisions/chain/verify").text)["data"]
        assert verified["is_valid"], verified
        for writer in writers:
            for decision_id in list(writer.hashes)[:: max(1, len(writer.hashes) // 10)]:
                assert http.get(f"/api/v1/decisions/{decision_id}").status_code == 200


STEP = (
    "ALTER TABLE entries ADD COLUMN made_up TEXT",
    "CREATE TABLE made_up (org_id TEXT NOT NULL, environment TEXT NOT NULL, note TEXT)",
    "INSERT INTO made_up SELECT org_id, environment, kind FROM entries",
    "CREATE INDEX entries_made_up ON entries (org_id, environment, kind)",
)


def next_ledger(location: Path) -> Migration:
    """The ledger's schema with two made-up revisions more, the second of which the version before could not bear."""
    shutil.copytree(LEDGER.location, location, ignore=shutil.ignore_patterns("__pycache__"))
    number = len(list(location.glob("0*.py")))
    write_revision(location, "ledger", number + 1, *STEP)
    write_revision(location, "ledger", number + 2, "DROP INDEX entries_made_up", phase="post")
    return replace(LEDGER, location=location, tenant_tables={**LEDGER.tenant_tables, "made_up": COLUMNS})


def start(postgres: testkit.PostgresDatabase, *migrations: Migration) -> None:
    """Open the database as a server of that version does."""

    async def main() -> None:
        async with opened(postgres, migrations):
            pass

    asyncio.run(main())


def test_servers_write_on_while_the_next_version_migrates(postgres: testkit.PostgresDatabase, tmp_path: Path) -> None:
    ledger = next_ledger(tmp_path / "migrations")
    number = len(list(LEDGER.location.glob("0*.py")))
    database = new_database(postgres)
    with two_servers(tmp_path, postgres) as servers:
        key = servers[0].key
        with writing(*servers, key=key) as writers:
            assert database.migrate([ledger, KEYS]) == [f"ledger_{number + 1:04}"]
            for writer in writers:
                writer.wait_for(20)
            start(postgres, ledger, KEYS)
            start(postgres, LEDGER, KEYS)  # a server of the version before that has to start again
        for server in servers:
            assert_whole(server, key, writers)
        with writing(*servers, key=key):
            assert database.migrate([ledger, KEYS]) == []
        assert [server.stop() for server in servers] == [0, 0]
    assert database.migrate([ledger, KEYS], post=True) == [f"ledger_{number + 2:04}"]
    start(postgres, ledger, KEYS)
    with pytest.raises(DeploymentError, match="newer than this program"):
        start(postgres, LEDGER, KEYS)


def test_a_column_of_the_next_version_is_no_tampering(postgres: testkit.PostgresDatabase) -> None:
    """A verification by a server of the version before must not cry wolf while the next version migrates."""
    new_database(postgres).migrate([LEDGER])

    async def main() -> list[object]:
        async with opened(postgres, [LEDGER]) as database, PostgresDriver(database).open() as store:
            await Writer(store).fill(ALPHA, 3)
            await testkit.execute(postgres.admin_url, "ALTER TABLE precipiq.entries ADD COLUMN made_up TEXT")
            batches = await asyncio.to_thread(lambda: list(store.auditor().batches(ALPHA, 0, None, 10)))
            return [batch.problem for batch in batches]

    assert asyncio.run(main()) == [None]


def old_commit() -> str:
    """The newest commit with another schema than the working tree; the newest of all, if that one had no PostgreSQL."""
    if git("status", "--porcelain", "--", *MIGRATIONS):
        return git("rev-parse", "HEAD")
    changed = git("log", "-1", "--format=%H %P", "--", *MIGRATIONS).split()
    if len(changed) < 2:
        pytest.skip("the history does not go back to the last change of a schema: clone more of it")
    return changed[1] if git("ls-tree", changed[1], *POSTGRES) else "HEAD"


@pytest.fixture
def old_code(tmp_path: Path) -> dict[str, str]:
    """The variables under which a process runs the old version."""
    return code_of(old_commit(), tmp_path)


def test_a_server_of_the_version_before_writes_on_while_this_one_migrates(
    postgres: testkit.PostgresDatabase, tmp_path: Path, old_code: dict[str, str]
) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(running_server(tmp_path / "old", postgres=postgres, overrides=old_code))
        key = old.key
        mapped = Path(f"/proc/{old.process.pid}/environ").read_bytes()
        assert f"PYTHONPATH={old_code['PYTHONPATH']}".encode() in mapped
        new = ServerProcess(
            tmp_path / "new", postgres=postgres, overrides={"PRECIPIQ__DATABASE__MIGRATE_AT_START": "false"}
        )
        (new.data_dir).mkdir()
        shutil.copy(old.data_dir / "master.key", new.data_dir)
        with writing(old, key=key) as before:
            new.run("migrate")
            stack.enter_context(running(new))
            with writing(new, key=key) as after:
                for server in (old, new):
                    assert_whole(server, key, [*before, *after])
        assert old.stop() == 0
        with writing(new, key=key) as last:
            new.run("migrate", "--post")
        assert_whole(new, key, [*before, *after, *last])
        assert new.stop() == 0


@contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    server.start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
