"""Exports of a long chain: throughput beside a plain loop over the same entries, memory, and what appends feel of one.

The plain loop reads the entries as the export does, hashes statement and payload, and hashes and deflates the bytes
that the bundle holds, at the same level, in one process and one thread. ``BENCH_ENTRIES`` (1000000) sizes the chain.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from stream import BATCH, Writer, percentile, resident_bytes

from precipiq_contracts.chain import Chain
from precipiq_sqlite.entries.audit import SqliteAuditor
from precipiq_testkit.server import ServerProcess, running_server

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
ENTRIES = int(os.environ.get("BENCH_ENTRIES", "1000000"))
APPENDS_PER_S = 50


def call(server: ServerProcess, method: str, path: str, body: object = None) -> dict[str, object]:
    headers = {"X-Precipiq-Key": server.key, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/api/v1{path}", data=data, headers=headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["data"]


class Export:
    """One export, watched: how long it took, the most memory that its processes had."""

    def __init__(self, server: ServerProcess, through_seq: int) -> None:
        self.server = server
        began_s = time.perf_counter()
        self.id = call(server, "POST", "/exports", {"through_seq": through_seq})["id"]
        self.server_peak = self.worker_peak = 0
        self.record: dict[str, object] = {}
        self._began_s = began_s

    def has_ended(self) -> bool:
        self.server_peak = max(self.server_peak, resident_bytes(self.server))
        for child in children_of(self.server.process.pid):
            self.worker_peak = max(self.worker_peak, peak_bytes(child))
        self.record = call(self.server, "GET", f"/exports/{self.id}")
        if self.record["status"] in ("pending", "running"):
            return False
        assert self.record["status"] == "completed", self.record
        self.took_s = time.perf_counter() - self._began_s
        return True

    def wait(self) -> None:
        while not self.has_ended():
            time.sleep(0.2)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(path.parent.name))
    return found


def peak_bytes(pid: int) -> int:
    with suppress(OSError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return 0


PLAIN_LOOP = """
import sys
from exports import plain_loop
print(*plain_loop(*sys.argv[1:]))
"""


def plain_loop(database: str, org_id: str, through_seq: str, bundle: str) -> tuple[float, float]:
    """Seconds for the raw entries alone, and with all that the bundle holds."""
    auditor = SqliteAuditor(Path(database), 5.0)
    began_s = time.perf_counter()
    deflate, whole = zlib.compressobj(6, wbits=-15), sha256()
    for batch in auditor.batches(Chain(org_id, "test"), 0, int(through_seq), 1000):
        for stored, statement, payload in zip(batch.hashes, batch.statements, batch.payloads, strict=True):
            assert sha256(statement).hexdigest() == stored
            line = statement
            if payload is not None:
                sha256(payload).hexdigest()
                line += payload
            whole.update(line)
            deflate.compress(line)
    deflate.flush()
    entries_s = time.perf_counter() - began_s
    return entries_s, entries_s + sum(seconds_of_the_rest(bundle))


def seconds_of_the_rest(bundle: str) -> Iterator[float]:
    """To hash and deflate what a bundle holds beside the raw entries; inflating it first does not count."""
    with zipfile.ZipFile(bundle) as archive:
        for name in archive.namelist():
            deflate, whole = zlib.compressobj(6, wbits=-15), sha256()
            with archive.open(name) as member:
                while name != "entries.jsonl" and (piece := member.read(1 << 18)):
                    began_s = time.perf_counter()
                    whole.update(piece)
                    deflate.compress(piece)
                    yield time.perf_counter() - began_s


def run_plain_loop(server: ServerProcess, through_seq: int, bundle: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", PLAIN_LOOP, server.database_file, server.org_id, str(through_seq), bundle]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    alone, all_of_it = done.stdout.split()
    return float(alone), float(all_of_it)


def download(server: ServerProcess, export_id: object, to: Path) -> None:
    request = urllib.request.Request(
        f"{server.url}/api/v1/exports/{export_id}/download", headers={"X-Precipiq-Key": server.key}
    )
    with urllib.request.urlopen(request) as answer, to.open("wb") as stream:
        while piece := answer.read(1 << 20):
            stream.write(piece)


def append_latencies(writer: Writer, until) -> list[float]:
    """Milliseconds of single appends at a steady rate until that says so."""
    found: list[float] = []
    began_s = time.perf_counter()
    while not until():
        time.sleep(max(0.0, began_s + len(found) / APPENDS_PER_S - time.perf_counter()))
        found.append(writer.append() * 1000)
    return sorted(found)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "server") as server:
        writer = Writer(server)
        for _ in range(ENTRIES // BATCH):
            writer.append(BATCH)
        bundle = Path(name) / "bundle.zip"
        took, entries_only, same_bytes = [], [], []
        for _ in range(ROUNDS):
            export = Export(server, ENTRIES)
            export.wait()
            took.append(export.took_s)
            download(server, export.id, bundle)
            alone_s, all_s = run_plain_loop(server, ENTRIES, bundle)
            entries_only.append(alone_s)
            same_bytes.append(all_s)
        with zipfile.ZipFile(bundle) as archive:
            size = sum(member.file_size for member in archive.infolist())
        ours, loop, more = map(statistics.median, (took, same_bytes, entries_only))
        print(f"export of {ENTRIES:,} entries, {size / 1e6:,.0f} MB before deflating: {ours:.1f} s, "
              f"{ENTRIES / ours:,.0f} entries/s, {size / 1e6 / ours:.1f} MB/s; plain loop over the same bytes {loop:.1f} s; "
              f"ratio {loop / ours:.2f} (aim 0.60); over the raw entries alone {more:.1f} s; ratio {more / ours:.2f}")  # fmt: skip
        print(
            f"  memory: server {export.server_peak / 1e6:.0f} MB, its largest child {export.worker_peak / 1e6:.0f} MB (aim 200)"
        )
        writer = Writer(server)  # the server closed the idle connection
        ends_s = time.perf_counter() + 5
        quiet = append_latencies(writer, lambda: time.perf_counter() > ends_s)
        beside = Export(server, ENTRIES)
        busy = append_latencies(writer, beside.has_ended)
        print(f"  append latency, {APPENDS_PER_S}/s: p50 {percentile(quiet, 0.5):.1f} ms, p99 {percentile(quiet, 0.99):.1f} ms without; "
              f"p50 {percentile(busy, 0.5):.1f} ms, p99 {percentile(busy, 0.99):.1f} ms while an export runs; "
              f"ratio of p99 {percentile(busy, 0.99) / percentile(quiet, 0.99):.2f} (aim 2)")  # fmt: skip


if __name__ == "__main__":
    main()
