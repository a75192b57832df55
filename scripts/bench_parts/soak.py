"""Half an hour of everything at once: memory, descriptors, threads and latencies over time, and every receipt afterwards.

On each of BENCH_DATABASES (sqlite postgres), for ``BENCH_SOAK_SECONDS`` (1800): single appends, batches, lists, reads of one
decision, streams, webhooks, and an export that is downloaded, all in closed loops. It fails when a request fails, when a
subscriber misses a decision, when a receipt is not what the ledger holds, and when descriptors or threads are left.
Memory and latencies are printed: what is flat is for the reader to judge, by the second half beside the first.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from exports import children_of
from http_append import decision
from stream import stream_path
from stripe import WebhookSignature
from webhooks import SECRET, event, server_on
from websockets.asyncio.client import connect

from precipiq_testkit.server import ServerProcess

SECONDS = float(os.environ.get("BENCH_SOAK_SECONDS", "1800"))
SAMPLES = 20
APPENDERS, BATCHERS, READERS, DELIVERERS, SUBSCRIBERS = 16, 1, 2, 1, 4
BATCH = 50
REST_S = 15.0  # within it idle connections, threads and child processes end
HASH_BYTES = 32
EXECUTOR_THREADS = min(32, (os.cpu_count() or 1) + 4)  # asyncio starts them as it needs them, and keeps them


class Connection:
    """One kept-alive connection: a request, then its answer."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        reader, writer = self.streams
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nX-Precipiq-Key: {self.key}\r\n{headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if "content-length: " in head:
            content = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
        else:
            content = b""
            while size := int(await reader.readline(), 16):
                content += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        return int(head[9:12]), content

    async def data(self, method: str, path: str, body: object = None, headers: str = "") -> dict[str, object]:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        status, content = await self.ask(method, path, raw, headers)
        assert status in (200, 201, 202), (method, path, status, content[:500])
        return json.loads(content)["data"]

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


@dataclass
class Soak:
    """The load on one server, and what came of it."""

    server: ServerProcess
    until_s: float = 0.0
    has_ended: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    window_ms: list[float] = field(default_factory=list)
    hashes: bytearray = field(default_factory=bytearray)
    """By seq: the hash in the receipt."""
    receipts: int = 0
    samples: list[tuple[float, float, int, int, float, float]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    def goes_on(self) -> bool:
        return time.perf_counter() < self.until_s

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def note(self, receipt: dict[str, object]) -> None:
        place = int(str(receipt["seq"])) * HASH_BYTES
        if len(self.hashes) < place + HASH_BYTES:
            self.hashes.extend(bytes(place + HASH_BYTES - len(self.hashes)))
        self.hashes[place : place + HASH_BYTES] = bytes.fromhex(str(receipt["hash"]))
        self.receipts += 1

    async def client(self, work: Callable[[Connection, int], Awaitable[None]], number: int = 0) -> None:
        connection = Connection(self.port, self.server.key)
        done = 0
        while self.goes_on():
            await work(connection, number + done * 1000)
            done += 1
        connection.close()

    async def append(self, connection: Connection, number: int) -> None:
        began_s = time.perf_counter()
        self.note(await connection.data("POST", "/api/v1/decisions", decision(number)))
        self.window_ms.append((time.perf_counter() - began_s) * 1000)
        self.count("single appends")

    async def append_batch(self, connection: Connection, number: int) -> None:
        body = {"decisions": [decision(number + index) for index in range(BATCH)]}
        for receipt in (await connection.data("POST", "/api/v1/decisions/batch", body))["receipts"]:  # type: ignore[attr-defined]
            self.note(receipt)
        self.count("entries of batches", BATCH)
        await asyncio.sleep(0.1)

    async def read(self, connection: Connection, number: int) -> None:
        page = await connection.data("GET", f"/api/v1/decisions?agent_id=agent-{number % 50}&limit=50")
        items = page["items"]
        assert isinstance(items, list)
        for item in items[:3]:
            await connection.data("GET", f"/api/v1/decisions/{item['id']}")
        self.count("lists and reads", 1 + len(items[:3]))
        await asyncio.sleep(0.05)

    async def deliver(self, connection: Connection, number: int, path: str) -> None:
        body = event(number)
        signature = WebhookSignature.generate_signature_header(body.decode(), SECRET, int(time.time()))
        status, content = await connection.ask("POST", path, body, f"Stripe-Signature: {signature}\r\n")
        assert status == 200, (status, content)
        self.count("webhooks")

    async def export(self, connection: Connection, number: int) -> None:
        made = await connection.data("POST", "/api/v1/exports", {})
        path = f"/api/v1/exports/{made['id']}"
        while (made := await connection.data("GET", path))["status"] in ("pending", "running"):
            await asyncio.sleep(0.5)
        assert made["status"] == "completed", made
        status, content = await connection.ask("GET", f"{path}/download")
        assert (status, content[:2]) == (200, b"PK"), status
        self.count("exports")
        connection.close()  # the server would, within the pause
        await asyncio.sleep(min(60.0, SECONDS / 10))

    async def subscribe(self) -> int:
        """How many decisions one subscriber saw, in the order of the chain, until all that were acknowledged."""
        seen = newest = 0
        url = f"ws://127.0.0.1:{self.port}{stream_path(self.server)}&kinds=decision"
        async with connect(url, max_size=None) as stream:
            while not self.has_ended or seen < self.receipts:
                async with asyncio.timeout(60):
                    frame = json.loads(await stream.recv())
                if frame.get("type") == "decision.created":
                    assert frame["seq"] > newest, "a decision came twice or late"
                    seen, newest = seen + 1, frame["seq"]
                    self.count("frames")
        return seen

    async def sample(self) -> None:
        for number in range(SAMPLES):
            then_s = self.until_s - SECONDS * (SAMPLES - 1 - number) / SAMPLES
            await asyncio.sleep(max(0.0, then_s - time.perf_counter()))
            window, self.window_ms = sorted(self.window_ms) or [float("inf")], []
            pids = [self.server.process.pid, *children_of(self.server.process.pid)]
            memory = [resident_mb(pid) for pid in pids]
            self.samples.append((
                memory[0], sum(memory), descriptors(pids[0]), threads(pids[0]),
                window[len(window) // 2], window[len(window) * 99 // 100],
            ))  # fmt: skip

    async def run(self) -> list[int]:
        first = Connection(self.port, self.server.key)
        endpoint = await first.data("POST", "/api/v1/integrations/stripe/endpoints", {"secret": SECRET})
        path = f"/api/v1/webhooks/stripe/{endpoint['id']}"
        first.close()  # the server would, in so long a time
        self.until_s = time.perf_counter() + SECONDS
        subscribers = [asyncio.create_task(self.subscribe()) for _ in range(SUBSCRIBERS)]
        await asyncio.sleep(0.5)
        await asyncio.gather(
            *(self.client(self.append, number) for number in range(APPENDERS)),
            *(self.client(self.append_batch, 100 + number) for number in range(BATCHERS)),
            *(self.client(self.read, 200 + number) for number in range(READERS)),
            *(self.client(lambda at, number: self.deliver(at, number, path), 300) for _ in range(DELIVERERS)),
            self.client(self.export),
            self.sample(),
        )
        self.has_ended = True
        await self.append(first, 0)  # so that each subscriber has something to read
        first.close()
        return list(await asyncio.gather(*subscribers))

    async def check_receipts(self) -> int:
        """How many receipts name an entry that the ledger holds under that hash; raises when one does not."""
        connection, after, held = Connection(self.port, self.server.key), 0, 0
        nothing = bytes(HASH_BYTES)
        while True:
            page = await connection.data("GET", f"/api/v1/ledger/entries?after_seq={after}&limit=500")
            for item in page["items"]:  # type: ignore[attr-defined]
                seq = item["statement"]["seq"]
                told = bytes(self.hashes[seq * HASH_BYTES : (seq + 1) * HASH_BYTES])
                if told not in (b"", nothing):
                    assert told.hex() == item["hash"], f"the receipt of entry {seq} is not true"
                    held += 1
            if page["next_after_seq"] is None:
                break
            after = int(str(page["next_after_seq"]))
        verdict = await connection.data("GET", "/api/v1/decisions/chain/verify")
        assert verdict["is_valid"] is True, verdict
        connection.close()
        return held


def resident_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def measure(name: str, server: ServerProcess) -> None:
    pid = server.process.pid
    soak = Soak(server)
    uvloop.run(warm(soak))
    time.sleep(REST_S)
    before = descriptors(pid), threads(pid), resident_mb(pid)
    seen = uvloop.run(soak.run())
    assert set(seen) == {soak.receipts}, f"subscribers saw {seen} of {soak.receipts} decisions"
    time.sleep(REST_S)
    after = descriptors(pid), threads(pid), resident_mb(pid)
    held = uvloop.run(soak.check_receipts())
    assert held == soak.receipts, f"{held} of {soak.receipts} receipts"
    print(f"{name}: {SECONDS:.0f} s; " + ", ".join(f"{count:,} {what}" for what, count in sorted(soak.counts.items())))
    print(f"  all {held:,} receipts are true, the chain verifies, each of {SUBSCRIBERS} subscribers saw every decision")
    for title, place, form in (
        ("server memory, MB", 0, ".0f"), ("with its child processes", 1, ".0f"), ("descriptors", 2, "d"), ("threads", 3, "d"),
        ("append p50, ms", 4, ".0f"), ("append p99, ms", 5, ".0f"),
    ):  # fmt: skip
        values = [sample[place] for sample in soak.samples]
        half = len(values) // 2
        ratio = statistics.median(values[half:]) / statistics.median(values[:half])
        print(f"  {title}: {' '.join(format(value, form) for value in values)}; second half / first {ratio:.2f}")
    print(f"  at rest before and after: descriptors {before[0]} and {after[0]}, threads {before[1]} and {after[1]}, "
          f"memory {before[2]:.0f} and {after[2]:.0f} MB")  # fmt: skip
    assert after[0] <= before[0], "descriptors are left"
    assert after[1] <= before[1] + EXECUTOR_THREADS, "threads are left"


async def warm(soak: Soak) -> None:
    """Each kind of request once, so that what is opened once and kept is open."""
    connection = Connection(soak.port, soak.server.key)
    soak.until_s = time.perf_counter() + 3
    await asyncio.gather(
        *(soak.client(soak.append, number) for number in range(APPENDERS)),
        *(soak.client(soak.read, number) for number in range(READERS)),
        soak.client(soak.append_batch),
    )
    made = await connection.data("POST", "/api/v1/exports", {})
    while (await connection.data("GET", f"/api/v1/exports/{made['id']}"))["status"] in ("pending", "running"):
        await asyncio.sleep(0.2)
    connection.close()
    soak.receipts, soak.hashes, soak.counts, soak.window_ms = 0, bytearray(), {}, []


def main() -> None:
    for name in os.environ.get("BENCH_DATABASES", "sqlite postgres").split():
        with server_on(name) as (_, server):
            measure(name, server)


if __name__ == "__main__":
    main()
