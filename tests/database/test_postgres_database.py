"""The PostgreSQL database as plugins use it: reads, transactions, what is refused, opening, closing, and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from precipiq_contracts.database import Migration, Scalar, Statement
from precipiq_contracts.errors import Conflict, DeploymentError, InternalError, Unavailable
from precipiq_postgres.service import PostgresDatabase
from precipiq_testkit import postgres

from .plugins import ALPHA, ALPHA_TEST, BETA, new_database, notes_plugin, opened

pytestmark = pytest.mark.anyio

ADD = "INSERT INTO notes (org_id, environment, note) VALUES (:org_id, 'live', :note) RETURNING note AS added"
COUNT = Statement("SELECT count(*) AS n FROM notes")


def add(note: str, org_id: str = "org_alpha") -> Statement:
    return Statement(ADD, {"org_id": org_id, "note": note})


@pytest.fixture(scope="module")
def migration(shared_postgres: postgres.PostgresDatabase, tmp_path_factory: pytest.TempPathFactory) -> Migration:
    migration = notes_plugin(tmp_path_factory.mktemp("plugin"))
    shared_postgres.server.sql(f"ALTER DATABASE {shared_postgres.name} SET deadlock_timeout = '50ms'")
    new_database(shared_postgres).migrate([migration])
    return migration


@pytest.fixture
def place(shared_postgres: postgres.PostgresDatabase, migration: Migration) -> Iterator[postgres.PostgresDatabase]:
    """The migrated database, empty again afterwards."""
    yield shared_postgres
    shared_postgres.sql("TRUNCATE precipiq.notes, precipiq.members, precipiq.reserved")


@pytest.fixture
async def database(place: postgres.PostgresDatabase, migration: Migration) -> AsyncIterator[PostgresDatabase]:
    async with opened(place, [migration]) as database:
        yield database


async def notes(database: PostgresDatabase) -> list[object]:
    return [row["note"] for row in await database.fetch(Statement("SELECT note FROM notes ORDER BY note"))]


async def admin(place: postgres.PostgresDatabase, *statements: str) -> list[asyncpg.Record]:
    return await postgres.execute(place.admin_url, *statements)


async def sessions(place: postgres.PostgresDatabase) -> list[str]:
    """What each connection of the role that serves is doing."""
    sql = f"SELECT state FROM pg_stat_activity WHERE usename = '{place.runtime_role}' AND datname = '{place.name}'"
    return [row[0] for row in await admin(place, sql)]


async def test_a_transaction_gives_the_rows_of_each_statement(database: PostgresDatabase) -> None:
    update = Statement("UPDATE notes SET note = 'c' WHERE note = :note", {"note": "b"})
    assert await database.transaction([add("a"), add("b"), update, COUNT]) == [
        [{"added": "a"}],
        [{"added": "b"}],
        [],
        [{"n": 2}],
    ]
    assert await notes(database) == ["a", "c"]
    assert await database.transaction([]) == []


async def test_a_transaction_is_all_or_nothing(database: PostgresDatabase) -> None:
    await database.transaction([add("a")])
    for last in (add("a"), Statement("UPDATE notes SET number = -1"), Statement("SELECT 1 / 0")):
        with pytest.raises(InternalError if "/" in last.sql else Conflict):
            await database.transaction([add("b"), last])
        assert await notes(database) == ["a"]


async def test_transactions_at_the_same_time_fail_apart(database: PostgresDatabase) -> None:
    async def attempt(number: int) -> int | None:
        try:
            await database.transaction([add(f"n{number}"), add("same" if number % 3 else f"m{number}")])
        except Conflict:
            return None
        return number

    done = [number for number in await asyncio.gather(*map(attempt, range(12))) if number is not None]
    assert len([number for number in done if number % 3]) == 1, "one of them wins"
    assert {0, 3, 6, 9} < set(done)
    expected = {f"n{number}" for number in done} | {f"m{number}" for number in done if number % 3 == 0} | {"same"}
    assert set(await notes(database)) == expected


async def test_fetch_sees_every_tenant_and_fetch_as_one(database: PostgresDatabase) -> None:
    await database.transaction([add("a"), add("b", "org_beta")])
    everything = Statement("SELECT note FROM notes ORDER BY note")
    assert await database.fetch(everything) == [{"note": "a"}, {"note": "b"}]
    assert await database.fetch_as(ALPHA, everything) == [{"note": "a"}]
    assert await database.fetch_as(BETA, Statement("SELECT count(*) AS n FROM notes")) == [{"n": 1}]
    assert await database.fetch_as(ALPHA_TEST, everything) == []


async def test_a_read_sees_every_transaction_that_has_returned(database: PostgresDatabase) -> None:
    newest = Statement("SELECT max(note) AS newest FROM notes")
    for number in range(20):
        await database.transaction([add(f"{number:03}")])
        assert await database.fetch(newest) == [{"newest": f"{number:03}"}]
        assert await database.fetch_as(ALPHA, newest) == [{"newest": f"{number:03}"}]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("note", ["", "O'Hara", 'a"b', "\\", "%s $1 :x", "Zoë 🚀\n\t", "x" * 100_000]),
        ("number", [0, 2**63 - 1, -(2**63), None]),
        ("ratio", [0.1, -0.0, 1e308, 5e-324, float("inf"), None, 3]),
        ("content", [b"", bytes(range(256)), None]),
    ],
)
async def test_values_come_back_as_they_were_given(
    database: PostgresDatabase, column: str, values: list[Scalar]
) -> None:
    for number, value in enumerate(values):
        parameters: dict[str, Scalar] = {"note": f"row {number}", column: value}
        names = ", ".join(parameters)
        sql = (
            f"INSERT INTO notes (org_id, environment, {names}) "
            f"VALUES ('org_alpha', 'live', {', '.join(f':{name}' for name in parameters)}) RETURNING {column} AS value"
        )
        rows = (await database.transaction([Statement(sql, parameters)]))[0]
        assert rows == [{"value": value}]
        again = Statement(f"SELECT {column} AS value FROM notes WHERE {column} = :{column}", {column: value})
        assert await database.fetch_as(ALPHA, again) == ([] if value is None else [{"value": value}])


async def test_an_insert_can_depend_on_what_is_there(database: PostgresDatabase) -> None:
    sql = (
        "INSERT INTO notes (org_id, environment, note, number) SELECT :org_id, 'live', :note, :number "
        "WHERE NOT EXISTS (SELECT 1 FROM notes WHERE org_id = :org_id AND number = :number) RETURNING number"
    )
    statement = Statement(sql, {"org_id": "org_alpha", "note": "first", "number": 7})
    assert await database.transaction([statement, statement]) == [[{"number": 7}], []]
    assert await notes(database) == ["first"]


async def test_rows_hold_the_types_of_the_contract(database: PostgresDatabase) -> None:
    for number in (2**62, 2**62):
        sql = "INSERT INTO notes (org_id, environment, note, number) VALUES ('o', 'live', :note, :number)"
        note = f"{len(await notes(database))}"
        await database.transaction([Statement(sql, {"note": note, "number": number})])
    [row] = await database.fetch(Statement("SELECT sum(number) AS total, avg(length(note)) AS mean FROM notes"))
    assert row == {"total": 2**63, "mean": 1}
    assert type(row["total"]) is int


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO reserved VALUES ('org_alpha', 'live', 'x')",
        "UPDATE precipiq.reserved SET note = 'x'",
        "DELETE FROM reserved",
        "INSERT INTO notes (org_id, environment, note) SELECT rolname, 'live', rolpassword FROM pg_authid",
        "TRUNCATE notes",
        "DROP TABLE notes",
        "ALTER TABLE notes ADD COLUMN more text",
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE more (x int)",
        "CREATE TEMP TABLE notes (x int)",
        "GRANT SELECT ON notes TO PUBLIC",
        "DO $$ BEGIN COMMIT; END $$",
        "SET ROLE NONE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SET precipiq.org_id = 'org_beta'",
        "RESET ALL",
        "COPY notes TO STDOUT",
        "COPY notes FROM PROGRAM 'id'",
        "LISTEN precipiq_entries",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "LOCK TABLE notes",
        "BEGIN",
        "/* */ -- x\n COMMIT",
        "ROLLBACK",
        "SAVEPOINT item",
        "END",
        "VACUUM",
        "EXPLAIN SELECT 1",
        "",
        "SELECT 1; COMMIT",
    ],
)
async def test_a_transaction_only_touches_rows_of_the_plugins_tables(database: PostgresDatabase, sql: str) -> None:
    await database.transaction([add("before")])
    statements = [add("a"), Statement(sql)]
    if sql in ("UPDATE precipiq.reserved SET note = 'x'", "DELETE FROM reserved"):
        with pytest.raises(InternalError, match="42501"):
            await database.transaction(statements)
    with pytest.raises(InternalError):
        await database.transaction(statements)
    assert await notes(database) == ["before"]


async def test_fetch_cannot_write(database: PostgresDatabase) -> None:
    await database.transaction([add("a")])
    with pytest.raises((Unavailable, InternalError)):
        await database.fetch(Statement("DELETE FROM notes RETURNING note"))


async def test_a_wrong_value_is_no_lost_connection_and_is_not_repeated(database: PostgresDatabase) -> None:
    for value in ("secret-value", 2**70, b"secret-value", "a\0b", "\ud800"):
        name = "note" if value in ("a\0b", "\ud800") else "number"
        with pytest.raises(InternalError, match=r"SQLSTATE 22|value of :value is not of the type") as refused:
            await database.fetch(Statement(f"SELECT 1 FROM notes WHERE {name} = :value", {"value": value}))
        assert "secret-value" not in str(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__, "a log's traceback would quote the value"


async def test_transactions_that_deadlock_are_done_nevertheless(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.transaction([add("a"), add("b")])
    sql = "UPDATE notes SET number = coalesce(number, 0) + 1 WHERE note = :note AND pg_sleep(0.05) IS NOT NULL"
    first, second = (Statement(sql, {"note": note}) for note in "ab")
    tries: list[Unavailable] = []
    run = database.run

    async def counted(work, **named: bool):
        try:
            return await run(work, **named)
        except Unavailable as error:
            tries.append(error)
            raise

    monkeypatch.setattr(database, "run", counted)
    await asyncio.gather(*(database.transaction(pair) for pair in [[first, second], [second, first]] * 2))
    assert tries, "the test must have made a deadlock"
    rows = await database.fetch(Statement("SELECT number FROM notes"))
    assert rows == [{"number": 4}, {"number": 4}]


async def test_a_statement_that_takes_too_long_is_ended(place: postgres.PostgresDatabase, migration: Migration) -> None:
    role = f'ALTER ROLE "{place.runtime_role}" IN DATABASE {place.name} SET statement_timeout ='
    await admin(place, f"{role} '200ms'")
    try:
        async with opened(place, [migration], connections_max=2) as database:
            with pytest.raises(Unavailable, match="took too long"):
                await database.transaction([add("a"), Statement("SELECT pg_sleep(20)::text AS slept")])
            assert await notes(database) == []
    finally:
        await admin(place, f"{role} '30s'")


async def test_connections_are_bounded_whatever_waits(place: postgres.PostgresDatabase, migration: Migration) -> None:
    async with opened(place, [migration], connections_max=3, connection_wait_s=20) as database:
        work = [
            asyncio.ensure_future(database.transaction([add(f"{number}"), Statement("SELECT pg_sleep(0.05)::text")]))
            for number in range(40)
        ]
        most = 0
        while not all(task.done() for task in work):
            most = max(most, len(await sessions(place)))
        await asyncio.gather(*work)
        assert most == 3
        assert len(await notes(database)) == 40


async def test_who_waits_too_long_for_a_connection_is_told(
    place: postgres.PostgresDatabase, migration: Migration
) -> None:
    async with opened(place, [migration], connections_max=2, connection_wait_s=1.0, reader_queue_max=5) as database:
        slow = Statement("SELECT pg_sleep(2.5)::text AS slept")
        results = await asyncio.gather(*(database.fetch(slow) for _ in range(7)), return_exceptions=True)
        assert [isinstance(result, Unavailable) for result in results] == [False] * 2 + [True] * 5
        assert "too many" in str(results[5])
        assert "too many" in str(results[6])
        await database.ping()


async def test_cancelled_work_hinders_nobody(database: PostgresDatabase, place: postgres.PostgresDatabase) -> None:
    for number in range(40):
        work = [
            asyncio.ensure_future(database.fetch(COUNT)),
            asyncio.ensure_future(database.fetch_as(ALPHA, COUNT)),
            asyncio.ensure_future(database.transaction([add(f"maybe {number}"), COUNT])),
        ]
        await asyncio.sleep(0.0005 * (number % 5))
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await database.transaction([add(f"{number:03}")])
    assert len([note for note in await notes(database) if str(note).isdigit()]) == 40
    states = await sessions(place)
    assert len(states) <= database.settings.connections_max
    assert "idle in transaction" not in states


async def test_closing_waits_for_work_that_runs(place: postgres.PostgresDatabase, migration: Migration) -> None:
    async with opened(place, [migration]) as database:
        work = asyncio.ensure_future(
            database.transaction([add("a"), Statement("SELECT pg_sleep(0.3)::text"), add("b")])
        )
        await asyncio.sleep(0.1)
    assert work.done()
    with pytest.raises(Unavailable, match="not open"):
        await database.fetch(COUNT)
    assert [row[0] for row in await admin(place, "SELECT note FROM precipiq.notes ORDER BY 1")] == ["a", "b"]
    assert await sessions(place) == []


async def test_a_cut_connection_is_unavailable_and_replaced(
    database: PostgresDatabase, place: postgres.PostgresDatabase
) -> None:
    running = asyncio.ensure_future(database.transaction([add("lost"), Statement("SELECT pg_sleep(20)::text")]))
    while "active" not in await sessions(place):
        await asyncio.sleep(0.01)
    await admin(
        place,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{place.runtime_role}'",
    )
    with pytest.raises(Unavailable):
        await running
    for number in range(3):
        await database.transaction([add(f"{number}")])
    assert await notes(database) == ["0", "1", "2"]


async def test_a_begin_that_fails_leaves_no_transaction_behind(
    database: PostgresDatabase, place: postgres.PostgresDatabase
) -> None:
    role, system = f'"{place.runtime_role}"', f'"{database.roles.system}"'
    await admin(place, f"REVOKE {system} FROM {role}")
    try:
        for _ in range(3):
            with pytest.raises(InternalError, match="42501"):
                await database.transaction([add("a")])
    finally:
        await admin(place, f"GRANT {system} TO {role}")
    assert await notes(database) == []
    assert "idle in transaction (aborted)" not in await sessions(place)


async def test_a_closed_database_is_unavailable_and_can_be_opened_again(
    place: postgres.PostgresDatabase, migration: Migration
) -> None:
    database = new_database(place)
    one = Statement("SELECT 1 AS one")
    for _ in range(2):
        for call in (database.fetch(one), database.fetch_as(ALPHA, one), database.transaction([one]), database.ping()):
            with pytest.raises(Unavailable):
                await call
        async with database.open([migration]):
            await database.ping()
            assert await database.fetch(one) == [{"one": 1}]


async def test_a_plan_that_a_migration_made_stale_is_made_anew(
    database: PostgresDatabase, place: postgres.PostgresDatabase
) -> None:
    everything = Statement("SELECT * FROM members")
    await asyncio.gather(*(database.fetch(everything) for _ in range(10)))
    await admin(place, "ALTER TABLE precipiq.members ADD COLUMN more text")
    try:
        assert await asyncio.gather(*(database.fetch(everything) for _ in range(10))) == [[]] * 10
        assert await database.fetch_as(ALPHA, everything) == []
    finally:
        await admin(place, "ALTER TABLE precipiq.members DROP COLUMN more")


async def test_opening_refuses_a_schema_that_is_behind(
    postgres: postgres.PostgresDatabase, migration: Migration, tmp_path: Path
) -> None:
    with pytest.raises(DeploymentError, match=r"cannot log in.*not there yet: run `precipiq migrate`"):
        async with opened(postgres, [migration]):
            pass
    assert await asyncio.to_thread(new_database(postgres).migrate, []) == []
    with pytest.raises(DeploymentError, match=r"holds no tables.*precipiq migrate"):
        async with opened(postgres, [migration]):
            pass
    assert await asyncio.to_thread(new_database(postgres).migrate, [migration]) == ["notes_0001"]
    async with opened(postgres, [migration]) as database:
        assert await notes(database) == []
