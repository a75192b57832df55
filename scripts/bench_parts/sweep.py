"""What the sweep costs: entries it checks for a second of a core, the share of a core it takes, what appends feel of it.

``BENCH_ENTRIES`` (1000000) sizes the chain; ``BENCH_SECONDS`` (5) is how long each is watched.
"""

from __future__ import annotations

import os
import tempfile
import time
import urllib.request
from pathlib import Path

from exports import append_latencies
from stream import BATCH, Writer, percentile

from precipiq_testkit.server import ServerProcess, running_server

ENTRIES = int(os.environ.get("BENCH_ENTRIES", "1000000"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
PREFIX = "PRECIPIQ__PLUGINS__LEDGER__SWEEP_"


def metric(server: ServerProcess, name: str) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def measure(server: ServerProcess, seconds: float) -> tuple[float, float, list[float]]:
    """Entries checked for a second of a core, seconds of a core for each second, latencies of appends meanwhile."""
    names = ("precipiq_ledger_swept_entries_total", "precipiq_ledger_sweep_cpu_seconds_total")
    writer = Writer(server)
    before, began_s = [metric(server, name) for name in names], time.perf_counter()
    latencies = append_latencies(writer, lambda: time.perf_counter() > began_s + seconds)
    entries, cpu_s = (metric(server, name) - was for name, was in zip(names, before, strict=True))
    return entries / max(cpu_s, 1e-9), cpu_s / (time.perf_counter() - began_s), latencies


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "server"
        with running_server(folder, overrides={f"{PREFIX}ENABLED": "false"}) as server:
            writer, org, key = Writer(server), server.org_id, server.key
            for _ in range(ENTRIES // BATCH):
                writer.append(BATCH)
            writer = Writer(server)
            ends_s = time.perf_counter() + SECONDS
            quiet = append_latencies(writer, lambda: time.perf_counter() > ends_s)
        print(f"appends, {len(quiet) / SECONDS:.0f}/s, without a sweep: p50 {percentile(quiet, 0.5):.1f} ms, "
              f"p99 {percentile(quiet, 0.99):.1f} ms")  # fmt: skip
        for share in ("0.1", "0.5", "1"):
            overrides = {f"{PREFIX}INTERVAL_S": "1", f"{PREFIX}WITHIN_S": "2", f"{PREFIX}CPU_SHARE": share}
            with running_server(folder, overrides=overrides) as server:
                server.org_id, server.key = org, key
                per_core_s, taken, latencies = measure(server, 3 * SECONDS)
            print(f"sweep with a share of {share}: {per_core_s:,.0f} entries for a second of a core, took {taken:.2f} of a core; "
                  f"appends p50 {percentile(latencies, 0.5):.1f} ms, p99 {percentile(latencies, 0.99):.1f} ms; "
                  f"{ENTRIES:,} entries take {ENTRIES / per_core_s / float(share):,.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
