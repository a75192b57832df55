"""Single durable appends, and batches of 100, over HTTP, each beside its limit measured in the same round."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from bare import bare_server, cpu_s

from precipiq_chain.chain_format import SALT_BYTES, prepare
from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_ledger.models import DecisionIn
from precipiq_ledger.routes import decision_draft
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.append import insert
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit.clock import ManualClock, SeededRandomness
from precipiq_testkit.sealing import Sealer
from precipiq_testkit.server import ServerProcess, running_server

HERE = Path(__file__).parent
CONNECTIONS = 64
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
BATCH_CONNECTIONS = 4
BATCH = 100


def decision(number: int) -> dict[str, object]:
    """About 600 bytes of canonical payload, as an agent would send it."""
    chosen = random.Random(number)
    return {
        "agent_id": f"agent-{number % 50}",
        "action_type": "discount_offer",
        "inputs": {"customer_id": f"cust_{number}", "tier": "gold", "history": [chosen.randrange(10**6) for _ in range(20)],
                   "note": "a customer asked for a better price on the yearly plan"},
        "outputs": {"discount_pct": 15, "valid_days": 30, "text": "we can offer fifteen percent for a year"},
        "confidence": 0.82,
        "alternatives": [{"action": "no_discount", "score": 0.48}, {"action": "free_month", "score": 0.61}],
        "human_in_loop": False,
        "metadata": {"model_version": "v2.3.1", "region": "eu-west-1", "trace": "".join(chosen.choices("0123456789abcdef", k=32))},
    }  # fmt: skip


def request_bytes(port: int, key: str, path: str, body: object) -> str:
    text = json.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Precipiq-Key: {key}\r\nContent-Type: application/json\r\n"
        f"User-Agent: bench\r\nAccept: */*\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    )


@dataclass(frozen=True)
class Load:
    """Requests to one server: the texts of a file in turn, over so many connections."""

    port: int
    pid: int
    requests: Path
    connections: int

    def run(self) -> dict[str, float]:
        """See ``load.py``; ``cpu_us``: of the server's process, for each request."""
        task = {
            "port": self.port,
            "requests": str(self.requests),
            "connections": self.connections,
            "duration_s": SECONDS,
        }
        before_s = cpu_s(self.pid)
        done = subprocess.run(
            [sys.executable, HERE / "load.py"], input=json.dumps(task), capture_output=True, text=True, check=True
        )
        result: dict[str, float] = json.loads(done.stdout)
        result["cpu_us"] = (cpu_s(self.pid) - before_s) * 1e6 / max(result["count"], 1)
        return result


def requests_file(folder: Path, name: str, port: int, key: str, path: str, bodies: Sequence[object]) -> Path:
    """As an agent's client sends them, each other: agents and bodies vary."""
    file = folder / f"{name}-{port}.json"
    file.write_text(json.dumps([request_bytes(port, key, path, body) for body in bodies]))
    return file


def raw_inserts_per_s(folder: Path, rows: list[tuple[int, str, str, str]]) -> float:
    """The same bytes into a plain table by the same sqlite3: batches of 100, each durable."""
    connection = sqlite3.connect(folder / f"raw{time.monotonic_ns()}.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, statement TEXT, payload TEXT, hash TEXT)")
    started_s, count = time.perf_counter(), 0
    while time.perf_counter() - started_s < SECONDS:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            [(count + index, *row[1:]) for index, row in enumerate(rows)],
        )
        connection.execute("COMMIT")
        count += len(rows)
    elapsed_s = time.perf_counter() - started_s
    connection.close()
    return count / elapsed_s


def inserts_into_our_table_per_s(folder: Path) -> float:
    """Entries sealed before, into the product's table and by its statement: what its columns, indexes and triggers cost."""
    path = folder / f"ours{time.monotonic_ns()}.db"
    database = SqliteDatabase(SqliteConfig(url=f"sqlite:///{path}"), path)
    database.migrate(SqliteDriver.migrations)
    chain = Chain("org_bench", "test")
    sealer = Sealer(chain, ManualClock(), SeededRandomness(1))
    head: Head | None = None
    groups: list[Sequence[Entry]] = []
    for start in range(0, 20_000, 100):
        drafts = [
            prepare(decision_draft(DecisionIn.model_validate(decision(number)), "key_bench"), os.urandom(SALT_BYTES))
            for number in range(start, start + 100)
        ]
        entries = sealer(head, drafts)
        head = Head(entries[-1].seq, entries[-1].hash, 0)
        groups.append(entries)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    started_s = time.perf_counter()
    for entries in groups:
        connection.execute("BEGIN IMMEDIATE")
        insert(connection, entries)
        connection.execute("COMMIT")
    elapsed_s = time.perf_counter() - started_s
    connection.close()
    return 20_000 / elapsed_s


def rows_of_server(database: Path) -> list[tuple[int, str, str, str]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT seq, statement, payload, hash FROM entries WHERE payload IS NOT NULL LIMIT 100"
        )
        rows = found.fetchall()
    assert all(sha256(row[1].encode()).hexdigest() == row[3] for row in rows)
    return rows


@dataclass
class Rounds:
    """The results of all rounds: single appends, batches, and the same single requests at both bare servers."""

    singles: list[dict[str, float]] = field(default_factory=list)
    batches: list[dict[str, float]] = field(default_factory=list)
    stock: list[dict[str, float]] = field(default_factory=list)
    own: list[dict[str, float]] = field(default_factory=list)


def measure_appends(server: ServerProcess, folder: Path, between: Callable[[], None] = lambda: None) -> Rounds:
    """So many rounds of each in turn; ``between`` is called in each."""
    port, pid = int(server.url.rpartition(":")[2]), server.process.pid
    answer, headers = sample_answer(server.url, server.key)
    singles = [decision(number) for number in range(500)]
    batches: list[object] = [{"decisions": singles[start : start + BATCH]} for start in range(0, 500, BATCH)]
    path, rounds = "/api/v1/decisions", Rounds()

    def load_of(name: str, bodies: Sequence[object], port: int, pid: int, connections: int, path: str = path) -> Load:
        return Load(port, pid, requests_file(folder, name, port, server.key, path, bodies), connections)

    with bare_server("bare_server.py", answer, headers) as own, bare_server("bare_stock.py", answer, headers) as stock:
        single = load_of("single", singles, port, pid, CONNECTIONS)
        batch = load_of("batch", batches, port, pid, BATCH_CONNECTIONS, f"{path}/batch")
        at_own = load_of("single", singles, own.port, own.pid, CONNECTIONS)
        at_stock = load_of("single", singles, stock.port, stock.pid, CONNECTIONS)
        single.run()
        for _ in range(ROUNDS):
            rounds.stock.append(at_stock.run())
            rounds.own.append(at_own.run())
            rounds.singles.append(single.run())
            rounds.batches.append(batch.run())
            between()
    assert not sum(item["failures"] for item in (*rounds.singles, *rounds.batches)), "some requests failed"
    return rounds


def tell(rounds: Rounds, aims: tuple[float, float]) -> None:
    """``aims``: of single appends, against the endpoint on stock Hypercorn and on our own protocol."""
    what = "single durable append, 64 connections"
    report(what, rounds.singles, rounds.stock, "requests/s", "bare endpoint on stock Hypercorn", aims[0])
    report(what, rounds.singles, rounds.own, "requests/s", "bare endpoint on our own protocol", aims[1])
    for name, results in (("ours", rounds.singles), ("stock", rounds.stock), ("own protocol", rounds.own)):
        print(
            f"  {name}: {median(results, 'cpu_us'):,.0f} CPU us a request; "
            f"p50 {median(results, 'p50_ms'):.1f} ms, p99 {median(results, 'p99_ms'):.1f} ms"
        )


def main() -> None:
    raws: list[float] = []
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "server") as server:
        folder = Path(name)
        rounds = measure_appends(
            server, folder, lambda: raws.append(raw_inserts_per_s(folder, rows_of_server(server.database_file)))
        )
        ours = statistics.median([inserts_into_our_table_per_s(folder) for _ in range(ROUNDS)])
    tell(rounds, (1.3, 0.55))
    entries, limit = median(rounds.batches, "per_s") * BATCH, statistics.median(raws)
    print(
        f"batches of {BATCH} over HTTP, all plugins on: {entries:,.0f} entries/s, "
        f"{median(rounds.batches, 'cpu_us') / BATCH:,.0f} CPU us an entry; raw sqlite3 inserts {limit:,.0f} rows/s; "
        f"ratio {entries / limit:.2f} (aim 0.35); into our table alone {ours:,.0f} rows/s"
    )


def median(results: list[dict[str, float]], name: str) -> float:
    return statistics.median(result[name] for result in results)


def report(
    what: str, results: list[dict[str, float]], limits: list[dict[str, float]], unit: str, limit_name: str, aim: float
) -> None:
    rate, limit = median(results, "per_s"), median(limits, "per_s")
    print(f"{what}: {rate:,.0f} {unit}; {limit_name} {limit:,.0f}; ratio {rate / limit:.2f} (aim {aim:.2f})")


def sample_answer(url: str, key: str) -> tuple[str, dict[str, str]]:
    """What the server answers to one decision, for the bare endpoint to answer the same."""
    headers = {"X-Precipiq-Key": key, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/v1/decisions", json.dumps(decision(0)).encode(), headers)
    with urllib.request.urlopen(request) as response:
        kept = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in ("date", "content-length", "connection")
        }
        return response.read().decode(), kept


if __name__ == "__main__":
    main()
