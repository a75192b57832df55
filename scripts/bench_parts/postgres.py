"""PostgreSQL: appends beside their limits, two server processes beside one, and what row-level security costs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from chain import assembled
from http_append import (
    BATCH,
    BATCH_CONNECTIONS,
    HERE,
    ROUNDS,
    SECONDS,
    decision,
    measure_appends,
    median,
    request_bytes,
    tell,
)

from precipiq_contracts.chain import Chain
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemClock
from precipiq_ledger.models import DecisionIn
from precipiq_ledger.routes import decision_draft
from precipiq_ledger.service import LedgerService
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging
from precipiq_testkit.postgres import PostgresDatabase, own_postgres
from precipiq_testkit.server import ServerProcess, running_server

ORGANISATIONS = 4


def main() -> None:
    configure_logging(LogSettings(level="error"), SystemClock())
    settings = {"shared_buffers": "256MB"}
    with own_postgres(durable=True, settings=settings) as own, tempfile.TemporaryDirectory() as name:
        database = own.server.new_database()
        os.environ.update(database.environment)
        with running_server(Path(name) / "server", postgres=database) as server:
            measure_http(server, Path(name))
            measure_two_processes(server, Path(name))
        measure_batches(server, database)
        measure_row_level_security(server, database)


def measure_http(server: ServerProcess, folder: Path) -> None:
    rounds = measure_appends(server, folder)
    tell(rounds, (0.9 * 1.3, 0.9 * 0.55))
    print(f"batches of {BATCH} over HTTP: {median(rounds.batches, 'per_s') * BATCH:,.0f} entries/s")


def measure_two_processes(server: ServerProcess, folder: Path) -> None:
    """Batches of 100 to one organisation on one process, and to four on two, each with four connections in all."""
    organisations = [server.org_id]
    for number in range(1, ORGANISATIONS):
        made = json.loads(server.run("orgs", "create", f"organisation {number}", "--json").stdout)
        organisations.append(made["org_id"])
    keys = [server.create_key("test", org_id=org_id) for org_id in organisations]
    (folder / "second" / "data").mkdir(parents=True)
    shutil.copy(server.data_dir / "master.key", folder / "second" / "data" / "master.key")
    body = {"decisions": [decision(number) for number in range(BATCH)]}
    with running_server(folder / "second", postgres=server.postgres) as second:
        ports = [int(node.url.rpartition(":")[2]) for node in (server, second)]
        requests = [
            (ports[number % 2], request_bytes(ports[number % 2], key, "/api/v1/decisions/batch", body))
            for number, key in enumerate(keys)
        ]
        one, four = [], []
        for _ in range(ROUNDS):
            one.append(together([requests[0]], BATCH_CONNECTIONS) * BATCH)
            four.append(together(requests, 1) * BATCH)
    single, several = statistics.median(one), statistics.median(four)
    print(
        f"4 organisations on 2 processes: {several:,.0f} entries/s; 1 on 1 process: {single:,.0f}; "
        f"ratio {several / single:.2f} (load generators and PostgreSQL share the machine's {os.cpu_count()} cores)"
    )


def together(requests: list[tuple[int, str]], connections: int) -> float:
    """Requests per second of several load generators at once."""
    processes = []
    for port, request in requests:
        task = {"port": port, "request": request, "connections": connections, "duration_s": SECONDS}
        process = subprocess.Popen(
            [sys.executable, HERE / "load.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        processes.append(process)
    results = []
    for process in processes:
        assert process.stdout is not None
        results.append(json.loads(process.stdout.read()))
        process.wait(30)
    assert not sum(result["failures"] for result in results), "some requests failed"
    return sum(result["per_s"] for result in results)


def measure_batches(server: ServerProcess, database: PostgresDatabase) -> None:
    """The same bytes: through the ledger in this process, by a raw insert from unnest, and by COPY."""
    rows = [tuple(row) for row in database.sql(
        f"SELECT seq, statement, payload, hash FROM precipiq.entries WHERE payload IS NOT NULL LIMIT {BATCH}")]  # fmt: skip
    drafts = [decision_draft(DecisionIn.model_validate(decision(number)), "key_bench") for number in range(BATCH)]
    chain = Chain(server.org_id, "test")
    through, raws, copies = [], [], []

    async def rounds() -> None:
        assembly = assembled(server)
        async with run_lifespans(assembly):
            service = assembly.services.get(LedgerService)
            for _ in range(ROUNDS):
                through.append(await rate(lambda: service.append(chain, drafts), BATCH_CONNECTIONS))
                raws.append(await raw_rate(database, rows, unnest))
                copies.append(await raw_rate(database, rows, copy))

    asyncio.run(rounds())
    ours, raw, copied = (statistics.median(rates) for rates in (through, raws, copies))
    print(
        f"batches of {BATCH} through the ledger, {BATCH_CONNECTIONS} at once: {ours:,.0f} entries/s; "
        f"raw insert from unnest {raw:,.0f} rows/s; ratio {ours / raw:.2f} (aim 0.50); COPY {copied:,.0f} rows/s"
    )


async def rate(append: Callable[[], Awaitable[object]], tasks: int) -> float:
    """Entries per second of so many tasks that append a batch after the other."""
    count, started_s = 0, time.perf_counter()

    async def work() -> None:
        nonlocal count
        while time.perf_counter() - started_s < SECONDS:
            await append()
            count += BATCH

    await asyncio.gather(*(work() for _ in range(tasks)))
    return count / (time.perf_counter() - started_s)


RawInsert = Callable[[asyncpg.Connection, list[tuple[Any, ...]]], Awaitable[object]]


async def unnest(connection: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> None:
    columns = list(zip(*rows, strict=True))
    sql = "INSERT INTO raw SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::text[])"
    await connection.execute(sql, *columns)


async def copy(connection: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> None:
    await connection.copy_records_to_table("raw", records=rows)


async def raw_rate(database: PostgresDatabase, rows: list[tuple[Any, ...]], insert: RawInsert) -> float:
    """Rows per second into a plain table with a primary key, one connection, each batch durable."""
    connection = await asyncpg.connect(database.admin_url)
    await connection.execute("DROP TABLE IF EXISTS raw")
    await connection.execute("CREATE TABLE raw (seq bigint PRIMARY KEY, statement bytea, payload bytea, hash text)")
    count, started_s = 0, time.perf_counter()
    while time.perf_counter() - started_s < SECONDS:
        await insert(connection, [(count + index, *row[1:]) for index, row in enumerate(rows)])
        count += len(rows)
    elapsed_s = time.perf_counter() - started_s
    await connection.close()
    return count / elapsed_s


def measure_row_level_security(server: ServerProcess, database: PostgresDatabase) -> None:
    """Single appends and reads of 50 through the ledger, with the policies and with row-level security switched off."""
    draft = decision_draft(DecisionIn.model_validate(decision(1)), "key_bench")
    chain = Chain(server.org_id, "test")
    appends: dict[bool, list[float]] = {True: [], False: []}
    reads: dict[bool, list[float]] = {True: [], False: []}

    async def rounds() -> None:
        assembly = assembled(server)
        async with run_lifespans(assembly):
            service = assembly.services.get(LedgerService)
            for _ in range(ROUNDS):
                for is_on in (True, False):
                    await asyncio.to_thread(switch_security, database, is_on=is_on)
                    appends[is_on].append(await rate(lambda: service.append(chain, [draft]), 32) / BATCH)
                    reads[is_on].append(await rate(lambda: service.read(chain, 100, 50), 8) / BATCH)

    try:
        asyncio.run(rounds())
    finally:
        switch_security(database, is_on=True)
    for what, rates in (("appends", appends), ("reads of 50", reads)):
        on, off = statistics.median(rates[True]), statistics.median(rates[False])
        print(f"row-level security, {what}: {on:,.0f}/s with it, {off:,.0f}/s without; ratio {on / off:.2f}")


def switch_security(database: PostgresDatabase, *, is_on: bool) -> None:
    action = "ENABLE" if is_on else "DISABLE"
    database.sql(f"ALTER TABLE precipiq.entries {action} ROW LEVEL SECURITY")


if __name__ == "__main__":
    main()
