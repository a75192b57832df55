"""Batches of 100 over HTTP with `outcomes` and streams, and without them: what the followers of a chain cost appends.

Two servers, of which one loads at a time, in turns. On each of BENCH_DATABASES. After each load the CPU time goes on
counting until the follower has taken all in, so that nothing is left out by being late.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bare import cpu_s
from chain import get
from http_append import BATCH, BATCH_CONNECTIONS, ROUNDS, Load, decision, median, requests_file

from precipiq_testkit.postgres import PostgresServer, own_postgres
from precipiq_testkit.server import ServerProcess

_FOLLOWING = re.compile(r"^\[plugins\.(?:outcomes|ws_stream)\]\n(?:[^\[\n].*\n|\n)*", re.MULTILINE)


def started(folder: Path, postgres: PostgresServer | None, *, follows: bool) -> ServerProcess:
    database = None if postgres is None else postgres.new_database()
    server = ServerProcess(folder, postgres=database)
    if not follows:
        server.config.write_text(_FOLLOWING.sub("", server.config.read_text()))
    return server.start()


def load_of(server: ServerProcess, folder: Path) -> Load:
    port = int(server.url.rpartition(":")[2])
    singles = [decision(number) for number in range(500)]
    bodies = [{"decisions": singles[start : start + BATCH]} for start in range(0, 500, BATCH)]
    file = requests_file(folder, "batch", port, server.key, "/api/v1/decisions/batch", bodies)
    return Load(port, server.process.pid, file, BATCH_CONNECTIONS)


def settle(server: ServerProcess) -> None:
    """Wait until the follower, if there is one, is at the chain's head."""
    head = get(server, "/api/v1/ledger/head")["seq"]
    for _ in range(600):
        if "outcomes" not in server.config.read_text():
            return
        rows = server.sql("SELECT seq FROM outcome_cursors WHERE name = 'links'")
        if rows and rows[0][0] >= head:
            return
        time.sleep(0.1)


def measure(server: ServerProcess, load: Load) -> dict[str, float]:
    before_s = cpu_s(server.process.pid)
    result = load.run()
    settle(server)
    result["cpu_us"] = (cpu_s(server.process.pid) - before_s) * 1e6 / max(result["count"], 1)
    return result


def main() -> None:
    for name in os.environ.get("BENCH_DATABASES", "sqlite postgres").split():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            postgres = stack.enter_context(own_postgres(durable=True)).server if name == "postgres" else None
            servers = {}
            for follows in (True, False):
                servers[follows] = started(folder / str(follows), postgres, follows=follows)
                stack.callback(servers[follows].stop)
            loads = {follows: load_of(server, folder) for follows, server in servers.items()}
            results: dict[bool, list[dict[str, float]]] = {True: [], False: []}
            for number in range(ROUNDS + 1):
                for follows, server in servers.items():
                    result = measure(server, loads[follows])
                    assert not result["failures"], "some requests failed"
                    if number:  # the first warms up
                        results[follows].append(result)
        tell(name, results[True], results[False])


def tell(name: str, on: list[dict[str, float]], off: list[dict[str, float]]) -> None:
    pairs = list(zip(on, off, strict=True))
    rate = statistics.median(one["per_s"] / other["per_s"] for one, other in pairs)
    cpu = statistics.median(other["cpu_us"] / one["cpu_us"] for one, other in pairs)
    print(
        f"{name}: batches of {BATCH} over HTTP with `outcomes` and streams {median(on, 'per_s') * BATCH:,.0f} entries/s, "
        f"{median(on, 'cpu_us') / BATCH:,.0f} CPU us an entry; without {median(off, 'per_s') * BATCH:,.0f}, "
        f"{median(off, 'cpu_us') / BATCH:,.0f}; ratio of rates {rate:.2f} (aim 0.90), of CPU {cpu:.2f}"
    )


if __name__ == "__main__":
    main()
