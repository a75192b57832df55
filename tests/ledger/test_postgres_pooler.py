"""Behind a transaction pooler, such as PgBouncer, everything works: the whole contract of the driver, and a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryStore
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen
from precipiq_testkit.plugin import use_database
from precipiq_testkit.pooler import TransactionPooler
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.sealing import Writer
from precipiq_testkit.server import ServerProcess, running_server
from tests.databases import POSTGRES_ENTRIES
from tests.ledger.intruders import core_database
from tests.system.client import Client, decision

CHAIN, OTHER = Chain("org_alpha", "live"), Chain("org_beta", "live")


def pooled(database: PostgresDatabase, pooler: TransactionPooler) -> dict[str, object]:
    """What a deployment behind that pooler sets."""
    url = f"postgresql://{database.runtime_role}@127.0.0.1:{pooler.port}/{database.name}"
    return {"url": url, "listen_url": database.url, "transaction_pooler": True}


class OwnDatabaseDriver(PostgresDriver):
    """Opens its database with each store, as a process of its own would."""

    def __init__(self, database: PostgresDatabase, pooler: TransactionPooler, **settings: object) -> None:
        self._own = core_database(database, migrate_at_start=False, **pooled(database, pooler), **settings)
        super().__init__(self._own, DriverOptions(find_scan_rows_max=25, watch_poll_s=0.05))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        async with self._own.open([POSTGRES_ENTRIES]), super()._open() as store:
            yield store


def new_pooler(database: PostgresDatabase) -> TransactionPooler:
    if urlsplit(database.admin_url).password:
        pytest.skip("the pooler does not speak SCRAM")
    login = {"user": database.runtime_role, "database": database.name}
    return TransactionPooler(*database.server.address, **login, server_connections=3)


@pytest.fixture(scope="module")
def pooler(migrated: PostgresDatabase) -> Iterator[TransactionPooler]:
    with new_pooler(migrated) as pooler:
        yield pooler
        assert pooler.transactions > 0, "everything went past the pooler"


class TestPostgresDriverBehindAPooler(EntryStoreConformance):
    @pytest.fixture
    def driver(self, migrated: PostgresDatabase, pooler: TransactionPooler) -> Iterator[PostgresDriver]:
        yield OwnDatabaseDriver(migrated, pooler)
        migrated.empty("entries")

    @pytest.fixture
    def reopen(self, migrated: PostgresDatabase, pooler: TransactionPooler) -> Reopen:
        return lambda: OwnDatabaseDriver(migrated, pooler).open()


@pytest.mark.anyio
async def test_nodes_that_share_the_poolers_connections_write_and_verify_at_the_same_time(
    migrated: PostgresDatabase, pooler: TransactionPooler
) -> None:
    """More clients than server connections: whatever one leaves behind, another would meet."""
    drivers = [OwnDatabaseDriver(migrated, pooler, connections_max=4) for _ in range(2)]
    async with drivers[0].open() as one, drivers[1].open() as two:
        writers = [Writer(one, seed=1)]
        writers.append(Writer(two, writers[0].clock, seed=2))

        async def write(writer: Writer, chain: Chain) -> None:
            for number in range(30):
                await writer.append(chain, *(writer.draft(key=f"{chain.org_id}-{number}-{n}") for n in range(3)))

        async def verify(store: EntryStore, chain: Chain) -> None:
            for _ in range(5):
                work = verify_stretch, store.auditor(), chain, GENESIS, None
                stretch = await asyncio.to_thread(*work, batch_entries=10)
                assert stretch.broken is None

        async def read(store: EntryStore, chain: Chain) -> None:
            for _ in range(20):
                await asyncio.gather(store.head(chain), store.read(chain, 0, 20), store.ping())
                assert {found async for found in store.chains()} <= {CHAIN, OTHER}

        await asyncio.gather(
            *(write(writer, chain) for writer in writers for chain in (CHAIN, OTHER)),
            *(work(store, chain) for work in (verify, read) for store in (one, two) for chain in (CHAIN, OTHER)),
        )
        for chain in (CHAIN, OTHER):
            assert [entry.seq for entry in await one.read(chain, 0, 1000)] == list(range(1, 91))
    print(f"{pooler.transactions} transactions over {pooler.server_logins} logins of the pooler")
    await asyncio.to_thread(migrated.empty, "entries")


@pytest.fixture
def served(
    migrated_postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[ServerProcess, TransactionPooler]]:
    with use_database(migrated_postgres.copy(), monkeypatch) as postgres, new_pooler(postgres) as pooler:
        overrides = {
            f"PRECIPIQ__DATABASE__{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in pooled(postgres, pooler).items()
        }
        overrides["PRECIPIQ__PLUGINS__LEDGER__VERIFY_INLINE_ENTRIES_MAX"] = "10"
        with running_server(tmp_path / "server", postgres=postgres, overrides=overrides) as server:
            yield server, pooler


def test_a_server_behind_a_pooler_serves_everything(served: tuple[ServerProcess, TransactionPooler]) -> None:
    server, pooler = served
    client = Client(server)
    for number in range(40):
        client.decide(number, external_id=f"ticket-{number}")
    batch = {"decisions": [decision(number) for number in range(50)]}
    assert len(client.data("POST", "/decisions/batch", json=batch)["receipts"]) == 50
    assert client.decide(7, external_id="ticket-7")["seq"] == client.decide(7, external_id="ticket-7")["seq"]
    assert client.data("GET", "/decisions", params={"agent_id": "agent-3", "limit": 5})["items"]
    assert len(client.entries(25)) >= 90
    made = client.data("POST", "/api-keys", json={"scopes": ["read"]})
    assert Client(server, made["key"]).verify()["is_valid"]
    assert client.http.delete(f"/api-keys/{made['id']}").is_success
    assert Client(server, made["key"]).http.get("/ledger/head").status_code == 401
    assert client.verify()["is_valid"], "in processes, through the pooler"
    assert made["id"] in server.run("keys", "list", "--org", server.org_id, "--env", "test", "--json").stdout
    assert server.run("migrate").returncode == 0
    assert [line for line in server.log_lines() if line["level"] in ("error", "critical")] == []
    assert server.stop() == 0
    print(f"{pooler.transactions} transactions over {pooler.server_logins} logins of the pooler")
    assert pooler.lost_notifications == 0
