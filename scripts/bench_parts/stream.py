"""The stream: fan-out beside a bare loop, latency, memory of idle connections, stuck readers, replays beside appends."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precipiq_testkit.crowd import crowd
from precipiq_testkit.server import ServerProcess, running_server

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
REPLAY_ENTRIES = int(os.environ.get("BENCH_ENTRIES", "1000000"))
SUBSCRIBERS = 500
BATCH = 100
FANOUT_BATCHES = 40
RATE_PER_S = 100
IDLE = 1000


class Writer:
    """Appends over one connection."""

    def __init__(self, server: ServerProcess) -> None:
        import http.client

        self.connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]))
        self.headers = {"X-Precipiq-Key": server.key, "Content-Type": "application/json"}

    def append(self, count: int = 1, **inputs: object) -> float:
        """Append so many decisions whose payload and body are about 300 bytes; how long it took."""
        started_s = time.perf_counter()
        decisions = [
            {"agent_id": f"agent-{number % 50}", "action_type": "discount_offer", "confidence": 0.82,
             "inputs": {"customer_id": f"cust_{number}", "note": "a customer asked for a better price",
                        "sent": time.time(), **inputs},
             "outputs": {"discount_pct": 15}}
            for number in range(count)
        ]  # fmt: skip
        path, body = ("/batch", {"decisions": decisions}) if count > 1 else ("", decisions[0])
        self.connection.request("POST", f"/api/v1/decisions{path}", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
        return time.perf_counter() - started_s


def stream_path(server: ServerProcess, **query: int) -> str:
    extra = "".join(f"&{name}={value}" for name, value in query.items())
    return f"/ws/v1/stream?api_key={server.key}{extra}"


def head(server: ServerProcess) -> int:
    request = urllib.request.Request(f"{server.url}/api/v1/ledger/head", headers={"X-Precipiq-Key": server.key})
    with urllib.request.urlopen(request) as answer:
        return int(json.load(answer)["data"]["seq"])


def resident_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


@contextmanager
def fresh_server() -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "server") as server:
        yield server


def fan_out() -> float:
    """Frames per second to all subscribers, while appends come as fast as they are received."""
    with fresh_server() as server:
        writer = Writer(server)
        with crowd(server.url, stream_path(server), SUBSCRIBERS) as members:
            started_s = time.perf_counter()
            for number in range(FANOUT_BATCHES):
                writer.append(BATCH)
                members.wait_for(max(0, number - 1) * BATCH)
            members.wait_for(FANOUT_BATCHES * BATCH)
            elapsed_s = time.perf_counter() - started_s
            seen = members.finish(FANOUT_BATCHES * BATCH)
        check(seen)
        global frame_bytes
        frame_bytes = seen["bytes"] // seen["frames"]
        return FANOUT_BATCHES * BATCH * SUBSCRIBERS / elapsed_s


frame_bytes = 900


def bare_fan_out(script: str) -> float:
    count = 100
    environment = {**os.environ, "BENCH_FRAME_BYTES": str(frame_bytes), "BENCH_FRAMES": str(count)}
    server = subprocess.Popen(
        [sys.executable, HERE / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        url = server.stdout.readline().decode().strip()
        with crowd(url, "/", SUBSCRIBERS, check=False) as members:
            started_s = time.perf_counter()
            for number in range(4):
                server.stdin.write(b"x")
                server.stdin.flush()
                members.wait_for(max(0, number - 1) * count)
            members.wait_for(4 * count)
            return 4 * count * SUBSCRIBERS / (time.perf_counter() - started_s)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def check(seen: dict[str, object]) -> None:
    """A figure counts only when everybody had every entry in order and stayed."""
    assert seen["wrong"] == 0, seen["wrong"]
    assert seen["closes"] == [], seen["closes"]


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def latencies(subscribers: int, stuck: int, *, payload: int = 0) -> tuple[list[float], dict[str, int]]:
    """Milliseconds from before an append is sent until subscribers have it, at a steady rate."""
    with fresh_server() as server:
        writer = Writer(server)
        note = {"padding": "x" * payload} if payload else {}
        warm_up = 40 if payload else 0
        with crowd(server.url, stream_path(server), subscribers, stuck=stuck) as members:
            before = resident_bytes(server)
            for _ in range(warm_up):  # so much that whoever does not read has no room left
                writer.append(sent=0, padding="x" * 10_000)
            members.wait_for(warm_up)
            count = int(RATE_PER_S * SECONDS)
            started_s = time.perf_counter()
            for number in range(count):
                time.sleep(max(0.0, started_s + number / RATE_PER_S - time.perf_counter()))
                writer.append(**note)
            seen = members.finish(warm_up + count)
            grown = resident_bytes(server) - before
        check(seen)
        return seen["latencies_ms"], {"grown": grown}


def idle_memory() -> float:
    """Bytes that one idle connection costs the server."""
    with fresh_server() as server:
        Writer(server).append()
        with crowd(server.url, stream_path(server), 50):
            before = resident_bytes(server)
            with crowd(server.url, stream_path(server), IDLE):
                time.sleep(1)
                return (resident_bytes(server) - before) / IDLE


def replay() -> None:
    """A replay of a long chain: its speed, the server's memory, and what appends feel of it."""
    with fresh_server() as server:
        writer = Writer(server)
        started_s = time.perf_counter()
        for _ in range(REPLAY_ENTRIES // BATCH):
            writer.append(BATCH)
        print(f"  ({REPLAY_ENTRIES:,} entries appended in {time.perf_counter() - started_s:.0f} s)")
        quiet = sorted(writer.append() * 1000 for _ in range(300))
        before = resident_bytes(server)
        entries = head(server)
        with crowd(server.url, stream_path(server, after_seq=0), 1) as members:
            started_s = time.perf_counter()
            busy = []
            peak = before
            while time.perf_counter() - started_s < SECONDS:
                busy.append(writer.append() * 1000)
                peak = max(peak, resident_bytes(server))
                time.sleep(0.005)
            seen = members.finish(entries)
            elapsed_s = time.perf_counter() - started_s
            peak = max(peak, resident_bytes(server))
        check(seen)
        busy.sort()
        print(f"replay of {entries:,} entries: {entries / elapsed_s:,.0f} entries/s; server memory "
              f"{before / 1e6:.0f} MB before, {peak / 1e6:.0f} MB at most")  # fmt: skip
        print(f"  append latency p50 {percentile(quiet, 0.5):.1f} ms, p99 {percentile(quiet, 0.99):.1f} ms without; "
              f"p50 {percentile(busy, 0.5):.1f} ms, p99 {percentile(busy, 0.99):.1f} ms during it")  # fmt: skip


def main() -> None:
    ours, bare, joined = [], [], []
    for _ in range(ROUNDS):
        ours.append(fan_out())
        bare.append(bare_fan_out("bare_stream.py"))
        joined.append(bare_fan_out("bare_joined.py"))
    rate, limit, joining = map(statistics.median, (ours, bare, joined))
    print(f"fan-out to {SUBSCRIBERS} subscribers, frames of {frame_bytes} bytes: {rate:,.0f} frames/s; "
          f"a bare loop that joins frames {joining:,.0f}; ratio {rate / joining:.2f} (aim 0.90); "
          f"one that awaits each {limit:,.0f}; ratio {rate / limit:.2f} (aim 0.80)")  # fmt: skip
    found, _ = latencies(100, 0)
    print(f"append to receive, {RATE_PER_S} appends/s, 100 subscribers: p50 {percentile(found, 0.5):.1f} ms, "
          f"p99 {percentile(found, 0.99):.1f} ms (aim 5 / 25)")  # fmt: skip
    print(f"memory per idle connection: {idle_memory() / 1024:.1f} KB (aim 35)")
    alone, beside = [], []
    for _ in range(ROUNDS):
        values, _ = latencies(SUBSCRIBERS, 0, payload=2000)
        alone.append(percentile(values, 0.99))
        values, more = latencies(SUBSCRIBERS, SUBSCRIBERS, payload=2000)
        beside.append(percentile(values, 0.99))
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"{SUBSCRIBERS} stuck readers beside {SUBSCRIBERS} healthy ones: healthy p99 {statistics.median(beside):.0f} ms, "
          f"alone {statistics.median(alone):.0f} ms; ratio {ratio:.2f} (aim 1.20); "
          f"server grew by {more['grown'] / 1e6:.0f} MB")  # fmt: skip
    replay()


if __name__ == "__main__":
    main()
