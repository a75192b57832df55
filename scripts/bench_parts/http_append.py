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
from hashlib import sha256
from pathlib import Path

from bare import bare_server

from precipiq_testkit.server import running_server

HERE = Path(__file__).parent
CONNECTIONS = 64
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
BATCH_CONNECTIONS = 4


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


def load(port: int, request: str, connections: int) -> dict[str, float]:
    task = {"port": port, "request": request, "connections": connections, "duration_s": SECONDS}
    done = subprocess.run(
        [sys.executable, HERE / "load.py"], input=json.dumps(task), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


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


def rows_of_server(database: Path) -> list[tuple[int, str, str, str]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT seq, statement, payload, hash FROM entries WHERE payload IS NOT NULL LIMIT 100"
        )
        rows = found.fetchall()
    assert all(sha256(row[1].encode()).hexdigest() == row[3] for row in rows)
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "server") as server:
        port = int(server.url.rpartition(":")[2])
        single = request_bytes(port, server.key, "/api/v1/decisions", decision(1))
        batch = request_bytes(
            port, server.key, "/api/v1/decisions/batch", {"decisions": [decision(number) for number in range(100)]}
        )
        answer, headers = sample_answer(server.url, server.key)
        singles, limits, batches, raws = [], [], [], []
        with bare_server("bare_server.py", answer, headers) as bare_port:
            load(port, single, CONNECTIONS)
            for _ in range(ROUNDS):
                limits.append(load(bare_port, single, CONNECTIONS))
                singles.append(load(port, single, CONNECTIONS))
                batches.append(load(port, batch, BATCH_CONNECTIONS))
                raws.append(raw_inserts_per_s(Path(name), rows_of_server(server.database_file)))
        report("single durable append, 64 connections", singles, limits, "requests/s", "bare Starlette endpoint", 0.75)
        print(f"  latency p50 {median(singles, 'p50_ms'):.1f} ms, p99 {median(singles, 'p99_ms'):.1f} ms; "
              f"bare p50 {median(limits, 'p50_ms'):.1f} ms, p99 {median(limits, 'p99_ms'):.1f} ms")  # fmt: skip
        entries = median(batches, "per_s") * 100
        limit = statistics.median(raws)
        print(f"batches of 100 over HTTP: {entries:,.0f} entries/s; raw sqlite3 inserts {limit:,.0f} rows/s; "
              f"ratio {entries / limit:.2f} (aim 0.50)")  # fmt: skip
        assert not sum(item["failures"] for item in (*singles, *batches)), "some requests failed"


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
