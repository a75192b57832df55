"""The table of entries on PostgreSQL: who is refused what, and by what: a missing privilege, or the triggers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from precipiq_chain.grouping import idempotency_check
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.database import Statement
from precipiq_contracts.entry_store import EntryStore
from precipiq_contracts.errors import PrecipiqError
from precipiq_postgres.entries.columns import indexed_columns
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_postgres.roles import Roles
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.sealing import Writer
from tests.databases import POSTGRES_ENTRIES
from tests.ledger.intruders import CHAIN, ENTRIES, OTHER_CHAIN, REDACTED, core_database, postgres_original

pytestmark = pytest.mark.anyio

PRIVILEGE, TRIGGER = "privilege", "trigger"
COPY = "INSERT INTO entries SELECT org_id, environment, seq + 100, statement, payload, hash, NULL, NULL, "
COPY += "gen_random_uuid(), kind, agent_id, action_type, redacts_seq FROM entries WHERE seq = 4"
CHANGES = {
    "alter a statement": "UPDATE entries SET statement = statement WHERE seq = 4",
    "alter a hash": "UPDATE entries SET hash = 'x' WHERE seq = 4",
    "move": "UPDATE entries SET seq = 99 WHERE seq = 4",
    "file elsewhere": "UPDATE entries SET org_id = 'org_beta' WHERE seq = 4",
    "alter a key": "UPDATE entries SET idempotency_key = NULL, idempotency_check = NULL WHERE seq = 4",
    "alter what stands beside": "UPDATE entries SET agent_id = 'x' WHERE seq = 4",
    "alter several": "UPDATE entries SET payload = NULL, hash = 'x' WHERE seq = 2",
    "replace a payload": "UPDATE entries SET payload = '{}' WHERE seq = 4",
    "replace an erased payload": "UPDATE entries SET payload = '{}' WHERE seq = 2",
    "erase": "UPDATE entries SET payload = NULL WHERE seq = 4",
    "upsert": COPY.replace("seq + 100", "seq") + " ON CONFLICT (org_id, environment, seq) DO UPDATE SET payload = NULL",
    "delete": "DELETE FROM entries WHERE seq = 4",
    "delete all": "DELETE FROM entries",
    "empty": "TRUNCATE entries",
    "empty with others": "TRUNCATE entries, ledger_checkpoints",
}
OF_PAYLOADS = {"replace a payload", "replace an erased payload", "erase", "upsert"}
DEFINITIONS = (
    "ALTER TABLE entries DISABLE TRIGGER ALL",
    "ALTER TABLE entries DISABLE ROW LEVEL SECURITY",
    "DROP TRIGGER entries_are_never_changed ON entries",
    "CREATE POLICY more ON entries USING (true)",
    "DROP POLICY tenant ON entries",
    "DROP TABLE entries",
    "ALTER TABLE entries RENAME TO others",
    "CREATE RULE swallow AS ON INSERT TO entries DO INSTEAD NOTHING",
    "CREATE TABLE precipiq.more (x int)",
    "CREATE TABLE heirs () INHERITS (entries)",
    "CREATE FUNCTION precipiq.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
    "CREATE OR REPLACE FUNCTION lock_chain(in_org_id text, in_environment text) RETURNS void LANGUAGE sql AS 'SELECT'",
    "SET session_replication_role = replica",
    "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE",
)


@pytest.fixture(scope="module")
def database(shared_postgres: PostgresDatabase) -> Iterator[PostgresDatabase]:
    with postgres_original(shared_postgres):
        yield shared_postgres


@asynccontextmanager
async def acting(database: PostgresDatabase, who: str, chain: Chain = CHAIN) -> AsyncIterator[asyncpg.Connection]:
    """A connection as one of the roles, for that tenant, in a transaction that is undone."""
    roles = Roles(database.runtime_role)
    is_admin = who in ("owner", "superuser")
    options: dict[str, Any] = {} if is_admin else {"password": database.password}
    connection = await asyncpg.connect(database.admin_url if is_admin else database.url, **options)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL search_path = precipiq")
            await connection.execute(
                "SELECT set_config('precipiq.org_id', $1, true), set_config('precipiq.environment', $2, true)",
                chain.org_id, chain.environment,
            )  # fmt: skip
            if who in ("system", "auditor", "owner"):
                await connection.execute(f'SET LOCAL ROLE "{getattr(roles, who)}"')
            yield connection
            raise Undone
    except Undone:
        pass
    finally:
        await connection.close()


class Undone(Exception):
    """Ends a transaction."""


async def refused_by(connection: asyncpg.Connection, sql: str, *parameters: object) -> str:
    """What refuses a statement; "nothing" when it is executed."""
    try:
        async with connection.transaction():
            await connection.execute(sql, *parameters)
            raise Undone
    except asyncpg.InsufficientPrivilegeError:
        return PRIVILEGE
    except asyncpg.RaiseError as error:
        return TRIGGER if "never" in str(error) else str(error)
    except Undone:
        return "nothing"


def expected(who: str, change: str) -> str:
    if who in ("runtime", "auditor") or (who == "system" and change not in OF_PAYLOADS):
        return PRIVILEGE
    return TRIGGER


@pytest.mark.parametrize("who", ["runtime", "auditor", "system", "owner", "superuser"])
async def test_entries_are_never_changed_deleted_or_emptied(database: PostgresDatabase, who: str) -> None:
    """By privilege for those who serve and read; by trigger for the payload that the system may erase, and for those
    who may do everything."""
    async with acting(database, who) as connection:
        for change, sql in CHANGES.items():
            assert await refused_by(connection, sql) == expected(who, change), change
        assert await connection.fetchval("SELECT count(*) FROM entries WHERE org_id = 'org_alpha'") == ENTRIES


async def test_the_role_that_replicates_is_refused_too(database: PostgresDatabase) -> None:
    """``session_replication_role = replica`` switches ordinary triggers off; these are ENABLE ALWAYS."""
    async with acting(database, "superuser") as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        for change, sql in CHANGES.items():
            assert await refused_by(connection, sql) == TRIGGER, change


@pytest.mark.parametrize("who", ["runtime", "auditor", "system"])
async def test_an_entry_cannot_be_put_in_by_hand(database: PostgresDatabase, who: str) -> None:
    async with acting(database, who) as connection:
        found = await refused_by(connection, COPY)
        if who == "system" and found == "nothing":
            pytest.xfail("the role that plugins write as may insert entries past append_entries")
        assert found == PRIVILEGE


@pytest.mark.parametrize("who", ["runtime", "auditor", "system"])
async def test_who_serves_cannot_alter_a_definition(database: PostgresDatabase, who: str) -> None:
    async with acting(database, who) as connection:
        for sql in DEFINITIONS:
            assert await refused_by(connection, sql) == PRIVILEGE, sql


async def test_who_serves_cannot_become_the_owner_or_go_past_row_level_security(database: PostgresDatabase) -> None:
    roles = Roles(database.runtime_role)
    async with acting(database, "runtime") as connection:
        for sql in (f'SET ROLE "{roles.owner}"', "SET ROLE postgres", f'GRANT "{roles.owner}" TO "{roles.runtime}"'):
            assert await refused_by(connection, sql) == PRIVILEGE, sql
        await connection.execute("SET LOCAL row_security = off")
        assert await refused_by(connection, "SELECT * FROM entries") == PRIVILEGE


@pytest.mark.parametrize("who", ["auditor", "system", "runtime"])
async def test_only_those_who_serve_may_call_the_functions_that_write(database: PostgresDatabase, who: str) -> None:
    async with acting(database, who) as connection:
        found = await refused_by(connection, "SELECT erase_payload('org_alpha', 'live', 99)")
        assert found == (PRIVILEGE if who == "auditor" else "nothing")


async def test_a_plugin_cannot_write_entries_through_the_database(database: PostgresDatabase) -> None:
    opened = core_database(database)
    insert = "INSERT INTO entries VALUES ('org_alpha', 'live', 99, '{}', NULL, 'h', NULL, NULL, gen_random_uuid(), 'k')"
    async with opened.open([POSTGRES_ENTRIES]):
        for sql in (insert, "DELETE FROM entries", "UPDATE entries SET statement = statement", "TRUNCATE entries"):
            with pytest.raises(PrecipiqError):
                await opened.transaction([Statement(sql)])


async def test_a_tenant_sees_and_erases_its_own_alone(database: PostgresDatabase) -> None:
    async with acting(database, "runtime", OTHER_CHAIN) as connection:
        assert await connection.fetchval("SELECT count(*) FROM entries") == 4
        assert await connection.fetchval("SELECT count(*) FROM entries WHERE org_id = 'org_alpha'") == 0
        assert await refused_by(connection, "SELECT erase_payload('org_alpha', 'live', 4)") == "nothing"
        await connection.execute("SELECT set_config('precipiq.org_id', 'org_alpha', true)")
        assert await connection.fetchval("SELECT payload IS NOT NULL FROM entries WHERE seq = 4")
        assert await refused_by(connection, "SELECT erase_payload('org_alpha', 'live', 4)") == TRIGGER


# append_entries


def arguments(chain: Chain, head: tuple[int, str], entries: Sequence[Entry]) -> tuple[Any, ...]:
    columns = zip(*(indexed_columns(entry.statement) for entry in entries), strict=True)
    keys = [None if entry.idempotency_key is None else entry.idempotency_key.encode() for entry in entries]
    checks = [
        None if entry.idempotency_key is None else idempotency_check(entry.idempotency_key, entry.hash)
        for entry in entries
    ]
    return (
        chain.org_id, chain.environment, *head, *columns, [entry.statement for entry in entries],
        [entry.payload for entry in entries], [entry.hash for entry in entries], keys, checks,
        [entry.mac for entry in entries],
    )  # fmt: skip


APPEND = "SELECT append_entries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"


def sealed(chain: Chain, *keys: str | None) -> Sequence[Entry]:
    """Entries such as a seal gives, with ids that no other entry has."""
    writer = Writer(None, seed=hash(keys) & 0xFFFF | 0x10000)  # type: ignore[arg-type]
    return writer.seal(chain)(None, [writer.draft(key=key) for key in keys])


async def head(connection: asyncpg.Connection, chain: Chain = CHAIN) -> tuple[int, str]:
    row = await connection.fetchrow(
        "SELECT seq, hash FROM entries WHERE org_id = $1 AND environment = $2 ORDER BY seq DESC LIMIT 1",
        chain.org_id, chain.environment,
    )  # fmt: skip
    return (0, "") if row is None else (row["seq"], row["hash"])


async def test_append_entries_follows_the_head_it_is_told_or_says_that_it_moved(database: PostgresDatabase) -> None:
    new = sealed(CHAIN, None, None)
    async with acting(database, "runtime") as connection:
        seq, digest = await head(connection)
        assert seq == ENTRIES
        [before] = await connection.fetchrow("SELECT hash FROM entries WHERE seq = $1", ENTRIES - 1)
        for wrong in ((0, ""), (seq - 1, before), (seq - 1, digest), (seq + 1, digest), (seq, ""), (seq, before)):
            assert await connection.fetchval(APPEND, *arguments(CHAIN, wrong, new)) == "moved", wrong
        assert await head(connection) == (seq, digest)
        assert await connection.fetchval(APPEND, *arguments(CHAIN, (seq, digest), new)) == "appended"
        assert await head(connection) == (seq + 2, new[1].hash)
        assert await connection.fetchval(APPEND, *arguments(CHAIN, (seq, digest), new)) == "moved"


@pytest.mark.parametrize(("before", "during"), [("off", "on"), ("local", "local"), ("on", "on")])
async def test_append_entries_waits_for_the_disk_where_nothing_else_does(
    database: PostgresDatabase, before: str, during: str
) -> None:
    async with acting(database, "runtime") as connection:
        await connection.execute(f"SET LOCAL synchronous_commit = {before}")
        told = await connection.fetchval(APPEND, *arguments(CHAIN, await head(connection), sealed(CHAIN, None)))
        assert (told, await connection.fetchval("SHOW synchronous_commit")) == ("appended", during)


async def test_append_entries_looks_at_the_head_once_the_chain_is_its_own(database: PostgresDatabase) -> None:
    """Whoever comes while another append is about to commit hears that the head moved; nothing is violated."""
    fresh = Chain("org_contended", "live")
    async with acting(database, "runtime", fresh) as first, acting(database, "runtime", fresh) as second:
        assert await first.fetchval(APPEND, *arguments(fresh, (0, ""), sealed(fresh, None))) == "appended"
        await second.execute("SET LOCAL lock_timeout = '100ms'")
        with pytest.raises(asyncpg.LockNotAvailableError) as refused:
            await second.fetchval(APPEND, *arguments(fresh, (0, ""), sealed(fresh, "other")))
        assert "lock_chain" in str(refused.value.context)


async def test_append_entries_begins_a_chain_only_where_there_is_none(database: PostgresDatabase) -> None:
    fresh = Chain("org_fresh", "live")
    new = sealed(fresh, None)
    async with acting(database, "runtime") as connection:
        assert await connection.fetchval(APPEND, *arguments(fresh, (1, "x"), new)) == "moved"
        assert await connection.fetchval(APPEND, *arguments(fresh, (0, ""), new)) == "appended"
        assert await connection.fetchval(APPEND, *arguments(fresh, (0, ""), new)) == "moved"


@pytest.mark.parametrize("known", ["key-4", "k" * 200, "clé 🚀", f"redaction:{REDACTED}"])
async def test_append_entries_says_when_a_key_is_known_and_stores_nothing(
    database: PostgresDatabase, known: str
) -> None:
    async with acting(database, "runtime") as connection:
        now = await head(connection)
        new = sealed(CHAIN, "new", None, known)
        assert await connection.fetchval(APPEND, *arguments(CHAIN, now, new)) == "known"
        assert await head(connection) == now
        moved = arguments(CHAIN, (now[0] - 1, now[1]), new)
        assert await connection.fetchval(APPEND, *moved) == "moved", "the head comes first"
        other = sealed(OTHER_CHAIN, known)
        then = await connection.fetchval(APPEND, *arguments(OTHER_CHAIN, (4, await other_head(database)), other))
        assert then == "appended", "keys are a chain's own"


async def other_head(database: PostgresDatabase) -> str:
    async with acting(database, "runtime", OTHER_CHAIN) as connection:
        return (await head(connection, OTHER_CHAIN))[1]


async def test_append_entries_stores_no_key_or_id_twice(database: PostgresDatabase) -> None:
    async with acting(database, "runtime") as connection:
        now = await head(connection)
        doubled_key = arguments(CHAIN, now, sealed(CHAIN, "same", "same"))
        assert await connection.fetchval(APPEND, *doubled_key) == "known"
        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.fetchval(APPEND, *arguments(CHAIN, now, [*sealed(CHAIN, None)] * 2))
        assert await head(connection) == now
        assert isinstance(arguments(CHAIN, now, sealed(CHAIN, None))[4][0], str | UUID)


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_append_entries_refuses_a_snapshot_from_before_its_lock(
    database: PostgresDatabase, isolation: str
) -> None:
    connection = await asyncpg.connect(database.url, password=database.password)
    try:
        await connection.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
            await connection.fetchval(APPEND, *arguments(CHAIN, (0, ""), sealed(CHAIN, None)))
    finally:
        await connection.close()


# erase_payload


@asynccontextmanager
async def store_of(database: PostgresDatabase) -> AsyncIterator[EntryStore]:
    opened = core_database(database)
    async with opened.open([POSTGRES_ENTRIES]), PostgresDriver(opened).open() as store:
        yield store


async def test_a_payload_is_erased_only_after_the_redaction_entry_that_names_it(database: PostgresDatabase) -> None:
    chain = Chain("org_erasing", "live")
    erase = "SELECT erase_payload('org_erasing', 'live', $1)"
    async with store_of(database) as store:
        writer = Writer(store, seed=7)
        first, second, third = await writer.fill(chain, 3)
        async with acting(database, "runtime", chain) as connection:
            assert await refused_by(connection, erase, first.seq) == TRIGGER, "no redaction entry"
        await writer.append(chain, writer.redaction(second))
        forged = writer.draft(
            kind="redaction", body={"target_seq": third.seq, "target_hash": first.hash}, erasable=False
        )
        kindless = writer.draft(body={"target_seq": first.seq, "target_hash": first.hash})
        await writer.append(chain, forged, kindless)
        async with acting(database, "runtime", chain) as connection:
            assert await refused_by(connection, erase, first.seq) == TRIGGER, "another entry's, or no redaction"
            assert await refused_by(connection, erase, third.seq) == TRIGGER, "another hash"
            assert await refused_by(connection, erase, second.seq) == "nothing"
            await connection.execute(erase, second.seq)
            await connection.execute(erase, second.seq)
            kept = await connection.fetch("SELECT payload IS NOT NULL FROM entries WHERE seq <= 3 ORDER BY seq")
            assert [row[0] for row in kept] == [True, False, True]
        with pytest.raises(PrecipiqError):
            await store.redact(chain, first, writer.redaction(second), writer.seal(chain))
        assert [entry.payload is None for entry in await store.read(chain, 0, 3)] == [False, False, False]
