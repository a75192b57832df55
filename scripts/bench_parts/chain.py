"""A long chain: verification beside plain hashing, its speed-up on two cores, memory, and lists short and long.

On each of BENCH_DATABASES (sqlite postgres).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

from http_append import decision

from precipiq_chain.verify import GENESIS, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_contracts.vault import MasterKey
from precipiq_core.boot import Assembly, assemble
from precipiq_core.deployment import load_deployment
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_ledger.models import DecisionIn
from precipiq_ledger.routes import decision_draft
from precipiq_ledger.service import LedgerService
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging
from precipiq_macs.entry_macs import PURPOSE, MacCheck
from precipiq_testkit.postgres import PostgresServer, own_postgres
from precipiq_testkit.server import ServerProcess

ENTRIES = int(os.environ.get("BENCH_ENTRIES", "1000000"))
SHORT_ENTRIES = 10_000
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
APPEND_AT_ONCE = 1000


class Silence:
    is_terminal = False

    def say(self, text: str) -> None:
        pass


def assembled(server: ServerProcess) -> Assembly:
    """The server's deployment in this process."""
    return assemble(
        load_deployment(server.config, {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=Silence(),
        serving=False,
    )


async def grow(server: ServerProcess, chain: Chain, count: int) -> None:
    assembly = assembled(server)
    async with run_lifespans(assembly):
        service = assembly.services.get(LedgerService)
        for start in range(0, count, APPEND_AT_ONCE):
            numbers = range(start, min(start + APPEND_AT_ONCE, count))
            drafts = [decision_draft(DecisionIn.model_validate(decision(number)), "key_bench") for number in numbers]
            await service.append(chain, drafts)


def hashes_per_s(auditor: EntryAuditor, chain: Chain) -> float:
    """The limit: SHA-256 of the same bytes, already in memory."""
    batch = next(iter(auditor.batches(chain, 0, None, 20_000)))
    rows = [
        (statement, payload) for statement, payload in zip(batch.statements, batch.payloads, strict=True) if payload
    ]
    started_s = time.perf_counter()
    for statement, payload in rows:
        sha256(statement).hexdigest()
        sha256(payload).hexdigest()
    return len(rows) / (time.perf_counter() - started_s)


def get(server: ServerProcess, path: str) -> Any:
    request = urllib.request.Request(server.url + path, headers={"X-Precipiq-Key": server.key})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)["data"]


def timed(server: ServerProcess, path: str) -> float:
    durations = []
    for _ in range(30):
        started_s = time.perf_counter()
        get(server, path)
        durations.append(time.perf_counter() - started_s)
    return statistics.median(durations) * 1000


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def main() -> None:
    configure_logging(LogSettings(level="error"), SystemClock())
    for database in os.environ.get("BENCH_DATABASES", "sqlite postgres").split():
        print(f"-- {database}")
        with ExitStack() as stack:
            server = stack.enter_context(own_postgres(durable=True)).server if database == "postgres" else None
            measure(Path(stack.enter_context(tempfile.TemporaryDirectory())), server)


def measure(folder: Path, postgres: PostgresServer | None) -> None:
    servers = {}
    for count in (SHORT_ENTRIES, ENTRIES):
        database = None if postgres is None else postgres.new_database()
        os.environ.update({} if database is None else database.environment)
        server = servers[count] = ServerProcess(folder / str(count), postgres=database).start()
        server.stop()
        started_s = time.perf_counter()
        asyncio.run(grow(server, Chain(server.org_id, "test"), count))
        print(f"appended {count:,} in {time.perf_counter() - started_s:.0f} s in process, {APPEND_AT_ONCE} at once")
    long = servers[ENTRIES]
    measure_verification(long)
    measure_lists(servers[SHORT_ENTRIES], long)


async def audit_of(server: ServerProcess) -> tuple[EntryAuditor, MacCheck]:
    """The auditor, and the check of the MACs: a benchmark's chain was never adopted."""
    assembly = assembled(server)
    async with run_lifespans(assembly):
        root = assembly.services.get(MasterKey).derive(PURPOSE)  # type: ignore[type-abstract]
        return assembly.services.get(LedgerService).store.auditor(), MacCheck(root)


def measure_verification(server: ServerProcess) -> None:
    chain = Chain(server.org_id, "test")
    auditor, macs = asyncio.run(audit_of(server))
    limits, singles, doubles = [], [], []
    for _ in range(ROUNDS):
        limits.append(hashes_per_s(auditor, chain))
        started_s = time.perf_counter()
        stretch = verify_stretch(auditor, chain, GENESIS, None, batch_entries=500, macs=macs)
        singles.append(stretch.checked_count / (time.perf_counter() - started_s))
        assert stretch.broken is None
    server.start()
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        verdict = get(server, "/api/v1/decisions/chain/verify")
        doubles.append(verdict["records_checked"] / (time.perf_counter() - started_s))
        assert verdict["is_valid"]
    memory = memory_mb(server.process.pid)
    server.stop()
    limit, single, double = (statistics.median(rates) for rates in (limits, singles, doubles))
    print(
        f"verify, one core: {single:,.0f} entries/s; hashlib over the same bytes {limit:,.0f}; ratio {single / limit:.2f} (aim 0.35)"
    )
    print(f"verify over HTTP, two processes: {double:,.0f} entries/s; speed-up {double / single:.2f}")
    print(f"server memory while verifying {ENTRIES:,} entries: {memory:.0f} MB at most (aim: under 200)")


def measure_lists(short: ServerProcess, long: ServerProcess) -> None:
    queries = {
        "agent_id": {"agent_id": "agent-7", "limit": "50"},
        "agent_id and action_type": {"agent_id": "agent-7", "action_type": "discount_offer", "limit": "50"},
        "no filter": {"limit": "50"},
    }
    short.start()
    long.start()
    for name, query in queries.items():
        path = "/api/v1/decisions?" + urllib.parse.urlencode(query)
        one, other = [], []
        for _ in range(ROUNDS):
            one.append(timed(short, path))
            other.append(timed(long, path))
        a, b = statistics.median(one), statistics.median(other)
        print(
            f"list of 50 by {name}: {a:.2f} ms at {SHORT_ENTRIES:,}, {b:.2f} ms at {ENTRIES:,}; ratio {b / a:.2f} (aim 1.50)"
        )
    short.stop()
    long.stop()


if __name__ == "__main__":
    sys.exit(main())
