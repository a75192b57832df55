"""The pooler breaks what a transaction pooler breaks and keeps the rest; each fault does what it says."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from precipiq_testkit.pooler import FaultProxy, TransactionPooler, _message, _receive
from precipiq_testkit.postgres import PostgresDatabase

pytestmark = pytest.mark.anyio

LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)  # what asyncpg may raise
PID = "SELECT pg_backend_pid()"


class Database:
    """A database of a real server, and ways to it: direct, or through a proxy."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.address = database.server.address
        self.login = {"user": urlsplit(database.admin_url).username or "", "database": database.name}

    def pooler(self, **options: Any) -> TransactionPooler:
        return TransactionPooler(*options.pop("address", self.address), **self.login, **options)

    def proxy(self) -> FaultProxy:
        return FaultProxy(*self.address)

    @asynccontextmanager
    async def connect(self, port: int | None = None, **options: Any) -> AsyncIterator[Any]:
        host, direct_port = self.address
        where = {"host": host, "port": direct_port} if port is None else {"host": "127.0.0.1", "port": port}
        connection = await asyncpg.connect(**where, **{**self.login, **options})
        try:
            yield connection
        finally:
            connection.terminate()
            await asyncio.sleep(0)

    async def hello(self, port: int, **options: Any) -> None:
        async with self.connect(port, **options) as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def open_pooled(self, clients: int = 1, **options: Any) -> AsyncIterator[Any]:
        """A pooler, a direct connection, and that many through the pooler, which prepare nothing."""
        async with AsyncExitStack() as stack:
            pooler = stack.enter_context(self.pooler(**options))
            opened = [self.connect(), *(self.connect(pooler.port, statement_cache_size=0) for _ in range(clients))]
            yield pooler, *[await stack.enter_async_context(connection) for connection in opened]

    @asynccontextmanager
    async def open_proxied(self, **options: Any) -> AsyncIterator[Any]:
        """A proxy, a direct connection, and one through the proxy."""
        with self.proxy() as proxy:
            async with self.connect() as direct, self.connect(proxy.port, **options) as one:
                yield proxy, direct, one


@pytest.fixture(scope="module")
def database(shared_postgres: PostgresDatabase) -> Database:
    if urlsplit(shared_postgres.admin_url).password:
        pytest.skip("the pooler does not speak SCRAM")
    shared_postgres.sql(
        "CREATE TABLE note (id text PRIMARY KEY)",
        "CREATE FUNCTION write_note(text) RETURNS void LANGUAGE sql AS 'INSERT INTO note VALUES ($1)'",
    )
    return Database(shared_postgres)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]


async def transact(connection: Any, sql: str, *arguments: object) -> Any:
    """One value, asked for in a transaction of its own."""
    async with connection.transaction():
        return await connection.fetchval(sql, *arguments)


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while True:
        value = condition()
        if await value if asyncio.iscoroutine(value) else value:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def is_lost(work: Awaitable[Any]) -> None:
    with pytest.raises(LOST):
        await asyncio.wait_for(work, 10)


async def exists(direct: Any, note: str) -> Any:
    return await direct.fetchval("SELECT EXISTS (SELECT FROM note WHERE id = $1)", note)


async def test_named_prepared_statements_fail(database: Database) -> None:
    with database.pooler() as pooler:
        for ask in (asyncpg.Connection.fetchval, transact):
            async with database.connect(pooler.port) as one:
                assert await ask(one, "SELECT $1::int", 1) == 1
                with pytest.raises(asyncpg.InvalidSQLStatementNameError):
                    await ask(one, "SELECT $1::int", 2)


async def test_a_prepared_statement_of_one_client_is_met_by_another(database: Database) -> None:
    async with database.open_pooled(2, server_connections=1) as (_, _, one, two):
        await one.execute("PREPARE mine AS SELECT 1")
        with pytest.raises(asyncpg.DuplicatePreparedStatementError):
            await two.execute("PREPARE mine AS SELECT 2")


@asynccontextmanager
async def raw_session(port: int, login: dict[str, str]) -> AsyncIterator[Any]:
    """A way to send messages of the wire protocol and get the answer up to the first one of a kind."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(message: bytes, kind: bytes) -> bytes:
        writer.write(message)
        while (answer := await asyncio.wait_for(_receive(reader), 10))[:1] not in (kind, b""):
            pass
        return answer

    words = [word for pair in login.items() for word in pair]
    await ask(_message(b"", *words, head=struct.pack("!i", 196608), tail=b"\0"), b"Z")
    yield ask
    writer.close()
    await writer.wait_closed()


async def test_an_unnamed_statement_is_lost_at_the_sync(database: Database) -> None:
    parse, sync = _message(b"P", "", "SELECT 1", tail=bytes(2)), _message(b"S")
    execute = _message(b"B", head=bytes(8)) + _message(b"E", head=bytes(5)) + sync
    with database.pooler() as pooler:
        async with raw_session(pooler.port, database.login) as ask:
            assert await ask(parse + execute, b"D")
            assert await ask(b"", b"Z")
            assert await ask(parse + sync, b"Z")
            assert b"C26000\0" in await ask(execute, b"E")
            assert await ask(b"", b"Z")
            assert await ask(sync + parse + _message(b"H"), b"1")  # without a Sync of its own it is kept
            assert await ask(execute, b"D")
            await ask(_message(b"d") + _message(b"X"), b"Z")  # what is left of a failed COPY is nothing to do
            assert pooler.transactions == 4


async def test_unprepared_transactions_work(database: Database) -> None:
    async with database.open_pooled(2) as (pooler, _, one, two):
        for number in range(20):
            got = await asyncio.gather(*(transact(client, "SELECT $1::int", number) for client in (one, two)))
            assert got == [number, number]
        assert await transact(one, "SELECT repeat('x', 3000000)") == "x" * 3_000_000
        assert await transact(one, "SELECT length($1::text)", "y" * 3_000_000) == 3_000_000
        assert pooler.transactions == 42


async def test_a_transaction_stays_on_one_connection_and_the_next_gets_another(database: Database) -> None:
    async with database.open_pooled(2, server_connections=3) as (_, _, one, two):
        used: list[int] = []
        for _ in range(6):
            async with one.transaction():
                used.append(await one.fetchval(PID))
                assert await one.fetchval(PID) == used[-1]
        assert used[:3] == used[3:]
        assert len(set(used)) == 3
        first, _, _, last = [await transact(client, PID) for client in (one, two, two, one)]
        assert first != last  # also when it is not its turn


async def test_a_failed_transaction_keeps_its_connection_until_it_is_rolled_back(database: Database) -> None:
    async with database.open_pooled(server_connections=2) as (_, _, one):
        await one.execute("BEGIN")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await one.execute("SELECT 1/0")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await one.execute("SELECT 1")
        await one.execute("ROLLBACK")


async def test_many_clients_share_few_connections(database: Database) -> None:
    async with database.open_pooled(8, server_connections=2) as (pooler, _, *clients):
        used = {pid for _ in range(5) for pid in await asyncio.gather(*(transact(client, PID) for client in clients))}
        assert len(used) == 2
        assert (pooler.server_logins, pooler.transactions, pooler.connections_open) == (2, 40, 8)
        clients[0].terminate()
        await until(lambda: pooler.connections_open == 7)
        assert pooler.connections_total == 8


async def test_settings_and_locks_of_a_session_are_lost_and_met_by_others(database: Database) -> None:
    shown = "SELECT current_setting('statement_timeout')"
    async with database.open_pooled(2, server_connections=2) as (_, _, one, two):
        await one.execute("SET statement_timeout = '12345ms'")
        assert await transact(one, shown) == "0"
        assert {await transact(two, shown) for _ in range(2)} == {"0", "12345ms"}
        await transact(one, "SELECT pg_advisory_lock(7)")
        assert await transact(one, "SELECT pg_advisory_unlock(7)") is False


async def test_a_setting_of_the_transaction_holds_in_it_alone(database: Database) -> None:
    async with database.open_pooled(2, server_connections=2) as (_, _, *clients):
        for number in range(6):
            async with clients[number % 2].transaction():
                await clients[number % 2].fetchval("SELECT set_config('app.tenant', $1, true)", str(number))
                assert await clients[number % 2].fetchval("SELECT current_setting('app.tenant')") == str(number)
            for client in clients:
                assert not await transact(client, "SELECT current_setting('app.tenant', true)")


async def test_notifications_are_not_delivered(database: Database) -> None:
    heard: list[object] = []
    async with database.open_pooled() as (pooler, direct, one):
        async with one.transaction():
            await one.add_listener("news", lambda *news: heard.append(news))
        await direct.execute("NOTIFY news")
        await until(lambda: pooler.lost_notifications == 1)
        assert await transact(one, "SELECT 1") == 1
    assert heard == []


async def test_copy_works_and_fails_within_a_transaction(database: Database) -> None:
    async with database.open_pooled(server_connections=2) as (_, _, one):
        async with one.transaction():
            await one.copy_records_to_table("note", records=[("copied",)])
        with pytest.raises(asyncpg.UniqueViolationError):
            await one.copy_records_to_table("note", records=[("copied",)] * 20_000)
        assert await transact(one, "SELECT 1") == 1


async def test_who_goes_in_the_middle_of_a_transaction_is_rolled_back(database: Database) -> None:
    async with database.open_pooled(2, server_connections=1) as (pooler, direct, one, two):
        await one.execute("BEGIN; INSERT INTO note VALUES ('left behind')")
        left = await one.fetchval(PID)
        one.terminate()
        assert await transact(two, PID) != left
        await until(lambda: direct.fetchval("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", left))
        assert not await exists(direct, "left behind")
        assert pooler.server_logins == 2


async def test_clients_wait_in_the_order_they_came(database: Database) -> None:
    async with database.open_pooled(4, server_connections=1) as (pooler, _, one, *others):
        came: list[int] = []
        waiting: list[asyncio.Task[Any]] = []
        await one.execute("BEGIN")
        for number in (2, 0, 1):
            waiting.append(asyncio.create_task(others[number].execute("SELECT 1")))
            waiting[-1].add_done_callback(lambda _, number=number: came.append(number))
            await until(lambda: pooler.waiting == len(waiting))
        assert came == []
        await one.execute("COMMIT")
        await asyncio.gather(*waiting)
        assert came == [2, 0, 1]


async def test_waiting_is_bounded(database: Database) -> None:
    options = {"server_connections": 1, "max_waiting": 1, "query_wait_timeout_s": 0.5}
    async with database.open_pooled(3, **options) as (pooler, _, one, two, three):
        await one.execute("BEGIN")
        waiting = asyncio.create_task(two.execute("SELECT 1"))
        await until(lambda: pooler.waiting == 1)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="too many clients"):
            await three.execute("SELECT 1")
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="query_wait_timeout"):
            await waiting
        await one.execute("COMMIT")
        assert await transact(one, "SELECT 1") == 1


async def test_who_goes_while_waiting_does_nothing(database: Database) -> None:
    async with database.open_pooled(2, server_connections=1) as (pooler, direct, one, two):
        await one.execute("BEGIN")
        waiting = asyncio.create_task(two.execute("INSERT INTO note VALUES ('too late')"))
        await until(lambda: pooler.waiting == 1)
        two.terminate()
        await is_lost(waiting)
        await asyncio.sleep(0.1)  # for the pooler to see that it went
        await one.execute("COMMIT")
        assert await transact(one, "SELECT 1") == 1
        assert not await exists(direct, "too late")
        assert pooler.server_logins == 1


async def test_a_cancel_request_reaches_the_server(database: Database) -> None:
    async with database.open_pooled(2, server_connections=1) as (pooler, _, one, two):
        with pytest.raises(TimeoutError):
            await one.execute("SELECT pg_sleep(60)", timeout=0.2)
        assert await asyncio.wait_for(transact(two, "SELECT 1"), 10) == 1
        assert await transact(one, "SELECT 1") == 1
        assert pooler.server_logins == 1


async def test_a_lost_server_connection_is_replaced(database: Database) -> None:
    async with database.open_pooled(2, server_connections=1) as (pooler, direct, one, two):
        await one.execute("BEGIN")
        await direct.fetchval("SELECT pg_terminate_backend($1, 5000)", await one.fetchval(PID))
        with pytest.raises((*LOST, asyncpg.AdminShutdownError)):
            await one.execute("SELECT 1")
        await direct.fetchval("SELECT pg_terminate_backend($1, 5000)", await transact(two, PID))
        await until(lambda: pooler.server_logins == 2)
        await until(lambda: pooler._servers == [None])  # it has seen that it lost the idle one
        assert await transact(two, "SELECT 1") == 1
        assert pooler.server_logins == 3


async def test_only_what_a_pooler_lets_in(database: Database) -> None:
    with database.pooler() as pooler:
        await database.hello(pooler.port, server_settings={"application_name": "me"}, ssl="prefer")
        with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter: search_path"):
            await database.hello(pooler.port, server_settings={"search_path": "x"})
        for wrong in ({"user": "somebody"}, {"database": "elsewhere"}):
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await database.hello(pooler.port, **wrong)
        with pytest.raises(ConnectionError):
            await database.hello(pooler.port, ssl="require")


async def test_a_client_learns_that_the_server_is_down(database: Database) -> None:
    with database.proxy() as proxy, database.pooler(address=("127.0.0.1", proxy.port)) as pooler:
        proxy.refuse()
        with pytest.raises(asyncpg.ProtocolViolationError, match="server login failed"):
            await database.hello(pooler.port)
        proxy.pass_through()
        await database.hello(pooler.port)


async def test_the_pooler_gives_its_password() -> None:
    """To a server that is none: it asks for a password and goes away."""
    got: list[bytes] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _receive(reader, startup=True)
        writer.write(_message(b"R", head=struct.pack("!i", 3)))
        got.append(await _receive(reader))
        writer.close()

    login = {"user": "me", "database": "mine"}
    server = await asyncio.start_server(ask, "127.0.0.1", 0)
    with TransactionPooler(*server.sockets[0].getsockname(), **login, password="only for tests") as pooler:
        async with raw_session(pooler.port, login):
            pass
    server.close()
    assert got == [_message(b"p", "only for tests")]


async def test_the_pooler_stops_with_clients_in_every_state(database: Database) -> None:
    async with database.open_pooled(4, server_connections=2, query_wait_timeout_s=60.0) as (pooler, _, one, *others):
        await one.execute("BEGIN")
        working = [asyncio.create_task(client.execute("SELECT pg_sleep(1)")) for client in others[1:]]
        await until(lambda: pooler.waiting == 1)
        pooler.stop()
        assert pooler.connections_open == 0
        for work in working:
            await is_lost(work)


async def test_the_proxy_relays(database: Database) -> None:
    async with database.open_proxied(ssl="prefer") as (proxy, _, one):
        for number in range(10):
            assert await one.fetchval("SELECT $1::int", number) == number
        await database.hello(proxy.port)
        assert await one.fetchval("SELECT repeat('x', 3000000)") == "x" * 3_000_000
        await until(lambda: proxy.connections_open == 1)
        assert (proxy.connections_total, proxy.hits) == (2, 0)


async def test_cut_all_resets_open_connections_and_lets_new_ones_in(database: Database) -> None:
    async with database.open_proxied() as (proxy, _, one), database.connect(proxy.port) as two:
        sleeping = asyncio.create_task(two.execute("SELECT pg_sleep(1)"))
        await asyncio.sleep(0.05)
        proxy.cut_all()
        assert proxy.connections_open == 0
        await is_lost(one.execute("SELECT 1"))
        await is_lost(sleeping)
        await database.hello(proxy.port)


def test_a_cut_is_a_reset(database: Database) -> None:
    with database.proxy() as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        while proxy.connections_open == 0:
            time.sleep(0.001)
        proxy.cut_all()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


async def test_refused_connections(database: Database) -> None:
    async with database.open_proxied() as (proxy, _, one):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await database.hello(proxy.port)
        proxy.refuse(reset=True)
        await is_lost(database.hello(proxy.port))
        assert await one.fetchval("SELECT 1") == 1
        proxy.refuse()
        proxy.pass_through()
        await database.hello(proxy.port)


async def test_a_frozen_request_arrives_later(database: Database) -> None:
    async with database.open_proxied() as (proxy, direct, one):
        proxy.freeze()
        writing = asyncio.create_task(one.execute("INSERT INTO note VALUES ('frozen request')"))
        connecting = asyncio.create_task(database.hello(proxy.port))
        done, _ = await asyncio.wait({writing, connecting}, timeout=0.2)
        assert not done
        assert not await exists(direct, "frozen request")
        proxy.pass_through()
        await asyncio.wait_for(asyncio.gather(writing, connecting), 10)


async def test_a_frozen_answer_arrives_later(database: Database) -> None:
    async with database.open_proxied() as (proxy, direct, one):
        await direct.execute("SELECT pg_advisory_lock(8)")
        write = "SELECT pg_advisory_lock(8); INSERT INTO note VALUES ('frozen answer')"
        writing = asyncio.create_task(one.execute(write))
        blocked = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        await until(lambda: direct.fetchval(blocked))
        proxy.freeze()
        await direct.execute("SELECT pg_advisory_unlock(8)")
        await until(lambda: exists(direct, "frozen answer"))
        done, _ = await asyncio.wait({writing}, timeout=0.1)
        assert not done
        proxy.pass_through()
        await asyncio.wait_for(writing, 10)


@pytest.mark.parametrize("end", [FaultProxy.cut_all, FaultProxy.stop])
async def test_frozen_connections_can_be_cut(database: Database, end: Callable[[FaultProxy], None]) -> None:
    async with database.open_proxied() as (proxy, _, one):
        proxy.freeze()
        asking = asyncio.create_task(one.execute("SELECT 1"))
        await asyncio.sleep(0.05)
        end(proxy)
        assert proxy.connections_open == 0
        await is_lost(asking)


async def test_a_commit_without_an_answer_has_happened(database: Database) -> None:
    async with database.open_proxied() as (proxy, direct, one):
        proxy.cut_before_answer(b"COMMIT")
        await one.execute("BEGIN")
        await one.execute("INSERT INTO note VALUES ('unanswered')")
        await is_lost(one.execute("COMMIT"))
        assert await exists(direct, "unanswered")


@pytest.mark.parametrize("cut", [b"COMMIT", b"write_note"])
async def test_what_was_not_relayed_has_not_happened(database: Database, cut: bytes) -> None:
    async with database.open_proxied() as (proxy, direct, one):
        proxy.cut_before_request(cut)
        with pytest.raises(LOST):
            async with one.transaction():
                await one.fetchval("SELECT write_note($1)", f"unrequested {cut!r}")
        assert proxy.hits == 1
        # Waits for the end of the other transaction, and would fail on its row.
        await direct.fetchval("SELECT write_note($1)", f"unrequested {cut!r}")


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("in_argument", [False, True])
async def test_a_call_without_an_answer_has_happened(database: Database, prepared: bool, in_argument: bool) -> None:
    """The pattern is in the statement, prepared before or not, or in an argument of it."""
    name = f"call {prepared} {in_argument}"
    async with database.open_proxied(statement_cache_size=100 if prepared else 0) as (proxy, direct, one):
        if prepared:
            await one.fetchval("SELECT write_note($1)", f"{prepared} {in_argument} before")
        proxy.cut_before_answer(name.encode() if in_argument else b"write_note")
        await is_lost(one.fetchval("SELECT write_note($1)", name))
        assert await exists(direct, name)
        assert proxy.hits == 1


async def test_a_pattern_cuts_as_often_as_told_or_until_forgotten(database: Database) -> None:
    with database.proxy() as proxy:
        proxy.cut_before_answer(b"SELECT 1", times=2)
        for _ in range(2):
            await is_lost(database.hello(proxy.port))
        await database.hello(proxy.port)
        proxy.cut_before_answer(b"SELECT 1")
        proxy.pass_through()
        await database.hello(proxy.port)
        assert proxy.hits == 2
