"""Migrations on PostgreSQL: each once, a revision all or none, in the phase it asks for, while servers go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.errors import DeploymentError, PrecipiqError, Unavailable
from precipiq_postgres import address as postgres_address
from precipiq_postgres import migrate as postgres_migrate
from precipiq_testkit import postgres as testkit
from precipiq_testkit.server import ServerProcess

from .plugins import ALPHA, ALPHA_TEST, BETA, COLUMNS, KEYS, LEDGER, new_database, notes_plugin, opened, write_revision

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
KEY_STEPS = ["auth_keys_0001", "auth_keys_0002", "auth_keys_0003", "auth_keys_0004"]
ENTRIES = ["ledger_0001", "ledger_0002", "ledger_0003"]
_RIGHTS = """
SELECT c.relname::text, c.relacl::text, c.relrowsecurity, c.relforcerowsecurity, c.xmin::text,
       (SELECT array_agg(p.polname || pg_get_expr(p.polqual, c.oid) ORDER BY p.polname)::text
        FROM pg_policy AS p WHERE p.polrelid = c.oid)
FROM pg_class AS c WHERE c.relnamespace = 'precipiq'::regnamespace AND c.relkind = 'r' ORDER BY 1
"""


@pytest.fixture
def notes(tmp_path: Path) -> Migration:
    return notes_plugin(tmp_path)


def migrate(place: testkit.PostgresDatabase, *migrations: Migration, post: bool = False) -> list[str]:
    return new_database(place).migrate(migrations, post=post)


def tables(place: testkit.PostgresDatabase) -> set[str]:
    sql = "SELECT relname FROM pg_class WHERE relnamespace = 'precipiq'::regnamespace AND relkind = 'r'"
    return {row[0] for row in place.sql(sql)}


def rights(place: testkit.PostgresDatabase) -> list[tuple[object, ...]]:
    return [tuple(row) for row in place.sql(_RIGHTS)]


def start(place: testkit.PostgresDatabase, *migrations: Migration) -> list[dict[str, object]]:
    """Open as a server does, and close; what it logged."""

    async def main() -> None:
        async with opened(place, migrations):
            pass

    with capture_logs() as lines:
        asyncio.run(main())
    return [dict(line) for line in lines]


def seen_by(place: testkit.PostgresDatabase, migrations: list[Migration], sql: str) -> list[list[object]]:
    """What ALPHA, its test environment and BETA see."""

    async def main() -> list[list[object]]:
        async with opened(place, migrations) as database:
            rows = [await database.fetch_as(chain, Statement(sql)) for chain in (ALPHA, ALPHA_TEST, BETA)]
            return [[value for row in found for value in row.values()] for found in rows]

    return asyncio.run(main())


def fill(place: testkit.PostgresDatabase) -> None:
    rows = "('org_alpha', 'live', 'a'), ('org_alpha', 'test', 'b'), ('org_beta', 'live', 'c')"
    place.sql(f"INSERT INTO precipiq.notes (org_id, environment, note) VALUES {rows}")


@contextmanager
def session(url: str, *statements: str) -> Iterator[None]:
    """A connection that did this and stays in its transaction."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(url))
    try:
        for statement in ("BEGIN", *statements):
            loop.run_until_complete(connection.execute(statement))
        yield
    finally:
        connection.terminate()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_migrating_again_changes_nothing_and_locks_nothing(
    postgres: testkit.PostgresDatabase, notes: Migration
) -> None:
    everything = (LEDGER, KEYS, notes)
    assert migrate(postgres, *everything) == [*ENTRIES, *KEY_STEPS, "notes_0001"]
    before = rights(postgres)
    locks = [f"LOCK TABLE precipiq.{table} IN ROW EXCLUSIVE MODE" for table in tables(postgres)]
    with session(postgres.admin_url, *locks):
        assert migrate(postgres, *everything) == []
    assert rights(postgres) == before, "no row of the catalog was written anew"


def test_migrations_at_the_same_time_apply_once(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(postgres, KEYS, notes))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(applied) == [[]] * 3 + [[*KEY_STEPS, "notes_0001"]]


def test_who_waits_too_long_for_another_migration_is_told(
    postgres: testkit.PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_migrate, "_LOCK_ATTEMPTS", 3)
    with (
        session(postgres.admin_url, postgres_migrate._LOCK.replace("try_", "")),
        pytest.raises(Unavailable, match="another migration is running"),
    ):
        migrate(postgres, KEYS)
    assert migrate(postgres, KEYS) == KEY_STEPS


_MIGRATING = """
import pickle, sys
from precipiq_postgres.migrate import migrate
as_whom, runtime, migrations = pickle.loads(bytes.fromhex(sys.argv[1]))
migrate(as_whom, runtime, migrations, post=False)
"""


@pytest.mark.parametrize("how", ["process", "connection"])
def test_a_migration_that_is_killed_leaves_whole_revisions(
    postgres: testkit.PostgresDatabase, notes: Migration, how: str
) -> None:
    import pickle

    asleep = f"SELECT pg_sleep({1 if how == 'process' else 60})"  # a backend sleeps on when its client has died
    revision = write_revision(notes.location, "notes", 2, "CREATE TABLE half (x int)", asleep)
    database = new_database(postgres)
    settings = database.settings
    assert settings.migrate_url is not None
    as_whom = postgres_address.PostgresAddress(
        settings.migrate_url, settings.migrate_password and settings.migrate_password.location
    )
    arguments = pickle.dumps((as_whom, database.address, [KEYS, notes])).hex()
    process = subprocess.Popen([sys.executable, "-c", _MIGRATING, arguments], stderr=subprocess.PIPE, text=True)
    sleeping = f"SELECT pid FROM pg_stat_activity WHERE datname = '{postgres.name}' AND query = '{asleep}'"
    while not (pids := postgres.server.sql(sleeping)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    if how == "process":
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    else:
        postgres.server.sql(f"SELECT pg_terminate_backend({pids[0][0]})")
        assert process.wait(10) != 0
    said = process.communicate()[1]
    assert how == "process" or "ConnectionLost: the database cannot be reached" in said, said
    assert "half" not in tables(postgres)
    assert {"notes", "api_keys"} <= tables(postgres), "earlier revisions stay"
    revision.write_text(revision.read_text().replace(asleep, "SELECT 1"))
    assert migrate(postgres, KEYS, notes) == ["notes_0002"]  # waits for what the dead one's connection still does
    assert "half" in tables(postgres)
    assert start(postgres, KEYS, notes)


def test_a_revision_that_fails_leaves_nothing_of_itself(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    write_revision(notes.location, "notes", 2, "CREATE TABLE half (x int)", code="1 / 0")
    with pytest.raises(ZeroDivisionError):
        migrate(postgres, KEYS, notes)
    assert {"notes", "api_keys"} <= tables(postgres)
    assert "half" not in tables(postgres)
    write_revision(notes.location, "notes", 2, "CREATE TABLE half (x int)")
    assert migrate(postgres, KEYS, notes) == ["notes_0002"]


def test_a_database_that_is_newer_than_the_program_is_refused(
    postgres: testkit.PostgresDatabase, notes: Migration
) -> None:
    newest = write_revision(notes.location, "notes", 2, "CREATE TABLE later (x int)")
    migrate(postgres, KEYS, notes)
    newest.unlink()
    for attempt in (migrate, start):
        with pytest.raises(DeploymentError, match=r"tables of notes are newer than this program knows.*notes_0002"):
            attempt(postgres, KEYS, notes)


def test_a_server_of_the_version_before_may_start_again_until_the_second_phase(
    postgres: testkit.PostgresDatabase, notes: Migration
) -> None:
    """While servers are replaced one by one, an old one that dies must come back."""
    migrate(postgres, notes)
    newer = [
        write_revision(notes.location, "notes", 2, "ALTER TABLE notes ADD COLUMN title TEXT", phase="pre"),
        write_revision(notes.location, "notes", 3, "ALTER TABLE notes DROP COLUMN ratio", phase="post"),
    ]
    texts = [path.read_text() for path in newer]

    def switch(*, is_old: bool) -> None:
        for path, text in zip(newer, texts, strict=True):
            path.unlink() if is_old else path.write_text(text)

    assert migrate(postgres, notes) == ["notes_0002"]
    switch(is_old=True)
    said = [line for line in start(postgres, notes) if "newer than this server" in str(line["event"])]
    assert [(line["branch"], line["revisions"]) for line in said] == [("notes", ["notes_0002"])]
    with pytest.raises(DeploymentError, match="newer than this program knows"):
        migrate(postgres, notes)

    switch(is_old=False)
    assert migrate(postgres, notes, post=True) == ["notes_0003"]
    switch(is_old=True)
    with pytest.raises(DeploymentError, match=r"newer than this program knows.*notes_0003"):
        start(postgres, notes)


def test_steps_of_the_second_phase_wait_until_they_are_asked_for(
    postgres: testkit.PostgresDatabase, notes: Migration
) -> None:
    migrate(postgres, notes)
    write_revision(notes.location, "notes", 2, "ALTER TABLE notes ADD COLUMN title TEXT", phase="pre")
    write_revision(notes.location, "notes", 3, "ALTER TABLE notes DROP COLUMN ratio", phase="post")
    with pytest.raises(DeploymentError, match=r"needs 1 migrations \(notes_0002\): run `precipiq migrate`$"):
        start(postgres, notes)
    with capture_logs() as lines:
        assert migrate(postgres, notes) == ["notes_0002"]
    assert {"event": "waits for `precipiq migrate --post`", "revision": "notes_0003", "log_level": "warning"} in lines
    said = [line for line in start(postgres, notes) if "migrations wait" in str(line["event"])]
    assert [line["revisions"] for line in said] == [["notes_0003"]]

    write_revision(notes.location, "notes", 4, "CREATE TABLE later (org_id TEXT)")
    assert migrate(postgres, notes) == [], "a step after one that waits waits as well"
    with pytest.raises(DeploymentError) as refused:
        start(postgres, notes)
    assert refused.value.problems == (
        "the database needs migrations (notes_0004) that come after others that wait (notes_0003): "
        "run `precipiq migrate --post` when no older server runs",
    )
    assert migrate(postgres, notes, post=True) == ["notes_0003", "notes_0004"]
    assert not [line for line in start(postgres, notes) if "wait" in str(line["event"])]


def test_an_empty_database_takes_both_phases_at_once(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    write_revision(notes.location, "notes", 2, "ALTER TABLE notes DROP COLUMN ratio", phase="post")
    assert migrate(postgres, notes) == ["notes_0001", "notes_0002"]


def test_a_misspelt_phase_is_refused(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    write_revision(notes.location, "notes", 2, "ALTER TABLE notes DROP COLUMN ratio", phase="Post")
    with pytest.raises(DeploymentError, match="notes_0002 of notes: phase must be 'pre' or 'post', not 'Post'"):
        migrate(postgres, notes)


def test_a_plugin_that_is_switched_off_and_on_again_has_its_rights(
    postgres: testkit.PostgresDatabase, notes: Migration
) -> None:
    migrate(postgres, LEDGER, KEYS, notes)
    fill(postgres)
    before = rights(postgres)
    for off in ([KEYS, notes], [LEDGER, KEYS], []):
        assert migrate(postgres, *off) == []
        assert rights(postgres) == before
        start(postgres, *off)
    assert migrate(postgres, LEDGER, KEYS, notes) == []
    assert rights(postgres) == before
    assert seen_by(postgres, [LEDGER, KEYS, notes], "SELECT note FROM notes") == [["a"], ["b"], ["c"]]


def test_a_plugin_that_comes_later(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    migrate(postgres, KEYS)
    assert migrate(postgres, KEYS, notes) == ["notes_0001"]
    fill(postgres)
    assert seen_by(postgres, [KEYS, notes], "SELECT note FROM notes") == [["a"], ["b"], ["c"]]


def test_tables_and_declarations_that_come_later_have_their_rights(
    postgres: testkit.PostgresDatabase, notes: Migration
) -> None:
    migrate(postgres, notes)
    fill(postgres)
    with pytest.raises(Exception, match="42501"):
        seen_by(postgres, [notes], "SELECT note FROM hidden")
    copy = "CREATE TABLE later AS SELECT org_id AS tenant, note FROM notes"
    write_revision(notes.location, "notes", 2, copy, "ALTER TABLE hidden ADD org_id TEXT, ADD environment TEXT")
    declared = {**notes.tenant_tables, "later": ("tenant", None), "hidden": COLUMNS}
    notes = replace(notes, tenant_tables=declared)
    assert migrate(postgres, notes) == ["notes_0002"]
    assert seen_by(postgres, [notes], "SELECT note FROM later ORDER BY 1") == [["a", "b"], ["a", "b"], ["c"]]
    postgres.sql("INSERT INTO precipiq.hidden VALUES ('h', 'org_beta', 'live')")
    assert seen_by(postgres, [notes], "SELECT note FROM hidden") == [[], [], ["h"]]


def test_a_revision_sees_and_changes_every_tenants_rows(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    migrate(postgres, notes)
    fill(postgres)
    write_revision(notes.location, "notes", 2, "UPDATE notes SET number = ascii(note)")
    migrate(postgres, notes)
    assert seen_by(postgres, [notes], "SELECT number FROM notes") == [[97], [98], [99]]


def test_what_was_altered_by_hand_is_mended(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    migrate(postgres, LEDGER, notes)
    fill(postgres)
    postgres.sql("ALTER TABLE precipiq.notes DISABLE ROW LEVEL SECURITY")
    postgres.sql("DROP POLICY tenant ON precipiq.notes", "CREATE POLICY wide ON precipiq.notes USING (true)")
    postgres.sql("CREATE POLICY wide ON precipiq.entries USING (true)")
    with pytest.raises(DeploymentError):
        start(postgres, LEDGER, notes)
    assert migrate(postgres, LEDGER, notes) == []
    assert seen_by(postgres, [LEDGER, notes], "SELECT note FROM notes") == [["a"], ["b"], ["c"]]


def test_a_long_revision_has_no_time_limit(
    postgres: testkit.PostgresDatabase, notes: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_address, "_COMMAND_TIMEOUT_S", 0.3)
    write_revision(notes.location, "notes", 2, "SELECT pg_sleep(0.6)")
    assert migrate(postgres, notes) == ["notes_0001", "notes_0002"]


class Writer(threading.Thread):
    """Writes a note every few milliseconds; counts them and remembers every failure."""

    def __init__(self, place: testkit.PostgresDatabase, migrations: list[Migration]) -> None:
        super().__init__()
        self.place, self.migrations = place, migrations
        self.stopped = threading.Event()
        self.count = 0
        self.failures: list[Exception] = []
        self.start()
        self.wait_for(3)

    def wait_for(self, count: int) -> None:
        """Until it wrote that many more."""
        goal = self.count + count
        until(lambda: self.count >= goal or not self.is_alive())
        assert self.is_alive()

    def run(self) -> None:
        asyncio.run(self._write())

    async def _write(self) -> None:
        sql = "INSERT INTO notes (org_id, environment, note) VALUES ('org_alpha', 'live', :note)"
        async with opened(self.place, self.migrations) as database:
            while not self.stopped.is_set():
                try:
                    await database.transaction([Statement(sql, {"note": f"{self.count}"})])
                except Exception as error:
                    self.failures.append(error)
                self.count += 1
                await asyncio.sleep(0.005)


def test_a_long_read_delays_a_migration_but_no_writer(
    postgres: testkit.PostgresDatabase, notes: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_migrate, "_TABLE_LOCK_ATTEMPTS", 10_000)
    migrate(postgres, notes)
    writer = Writer(postgres, [notes])
    write_revision(notes.location, "notes", 2, "ALTER TABLE notes ADD COLUMN title TEXT")
    applied: list[list[str]] = []
    migrating = threading.Thread(target=lambda: applied.append(migrate(postgres, notes)))
    try:
        with session(postgres.admin_url, "SELECT count(*) FROM precipiq.notes"):
            migrating.start()
            for _ in range(2):
                until(lambda: waits_for_a_table(postgres))
                writer.wait_for(10)  # writers go on between the tries
                until(lambda: not waits_for_a_table(postgres))
            assert applied == []
        migrating.join(DEADLINE_S)
    finally:
        writer.stopped.set()
        writer.join()
    assert applied == [["notes_0002"]]
    assert writer.failures == []


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def waits_for_a_table(place: testkit.PostgresDatabase) -> bool:
    """Whether a migration asks for a table that somebody else uses."""
    sql = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND database = "
    return bool(place.sql(f"{sql}(SELECT oid FROM pg_database WHERE datname = current_database())"))


def test_a_read_that_does_not_end_stops_the_migration(
    postgres: testkit.PostgresDatabase, notes: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_migrate, "_TABLE_LOCK_ATTEMPTS", 2)
    migrate(postgres, notes)
    write_revision(notes.location, "notes", 2, "CREATE TABLE later (x int)")
    write_revision(notes.location, "notes", 3, "ALTER TABLE notes ADD COLUMN title TEXT")
    with (
        session(postgres.admin_url, "SELECT count(*) FROM precipiq.notes"),
        pytest.raises(Unavailable, match=r"a table stays in use.*run it again"),
    ):
        migrate(postgres, notes)
    assert migrate(postgres, notes) == ["notes_0003"], "what was applied until then stays"


def test_a_deadlock_with_a_server_is_tried_again(postgres: testkit.PostgresDatabase, notes: Migration) -> None:
    postgres.server.sql(f"ALTER DATABASE {postgres.name} SET deadlock_timeout = '100ms'")
    migrate(postgres, notes)
    waiting = "DO $$ BEGIN PERFORM pg_sleep(0.3); END $$"
    write_revision(notes.location, "notes", 2, "LOCK TABLE notes", waiting, "ALTER TABLE members ADD COLUMN x TEXT")
    failures: list[BaseException] = []

    def serve() -> None:
        async def main() -> None:
            connection = await asyncpg.connect(postgres.admin_url)
            await connection.execute("SET deadlock_timeout = '5s'; BEGIN; LOCK TABLE precipiq.members IN SHARE MODE")
            held.set()
            await asyncio.sleep(0.5)
            await connection.execute("SELECT count(*) FROM precipiq.notes")
            await connection.close()

        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
            raise

    held = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    held.wait(10)
    assert migrate(postgres, notes) == ["notes_0002"]
    thread.join(20)
    assert failures == [], "the migration gives up, not the server"


def test_the_command(postgres: testkit.PostgresDatabase, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", postgres=postgres)
    rest = {"request_keys": 3, "ledger_usage": 1, "billing": 4, "outcomes": 1, "auth_keys": 4, "exports": 3}
    names = (*ENTRIES, *(f"{branch}_000{number}" for branch, most in rest.items() for number in range(1, most + 1)))
    assert server.run("migrate").stdout == "".join(f"applied {name}\n" for name in names)
    assert server.run("migrate", "--post").stdout == "the schema is up to date\n"
    postgres.sql("UPDATE precipiq.alembic_version_ledger SET version_num = 'ledger_9999'")
    done = server.run("migrate", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the database's tables of ledger are newer than this program knows")


NOBODY = "postgresql://x@127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": NOBODY}, "the database cannot be reached"),
        ({}, "cannot log in at"),  # the role is not there
        ({"url": "<server>/missing"}, "the database does not exist"),
        ({"migrate_url": NOBODY, "migrate_at_start": True}, "the database cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_opened_says_why(
    postgres: testkit.PostgresDatabase, settings: dict[str, object], said: str
) -> None:
    admin = str(postgres.settings()["migrate_url"]).rpartition("/")[0]
    settings = {name: value.replace("<server>", admin) if isinstance(value, str) else value
                for name, value in settings.items()}  # fmt: skip

    async def main() -> None:
        async with opened(postgres, [KEYS], **settings):
            pass

    with pytest.raises(PrecipiqError, match=said):
        asyncio.run(main())


def test_a_server_that_cannot_start_says_why(postgres: testkit.PostgresDatabase, tmp_path: Path) -> None:
    variables = {"PRECIPIQ__DATABASE__MIGRATE_AT_START": "false"}
    server = ServerProcess(tmp_path / "server", postgres=postgres, overrides=variables)
    with pytest.raises(RuntimeError, match="cannot log in at"):
        server.start()
    assert server.process.returncode == 2
    assert "Traceback" not in server.log_text()
    assert os.environ["PRECIPIQ_TEST_ADMIN_PASSWORD"] not in server.log_text().replace("trusted proxies", "")
