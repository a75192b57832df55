"""A closed-loop HTTP/1.1 client: so many keep-alive connections, one request in flight on each.

It sends the same request again and again, or those of a file in turn, an array of texts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer is complete."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Event) -> None:
        self.requests = requests
        self.done = done
        self.count = 0
        self.failures = 0
        self.latencies_s: list[float] = []
        self.buffer = b""
        self.started_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.started_s = time.perf_counter()
        self.transport.write(next(self.requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.latencies_s.append(time.perf_counter() - self.started_s)
        if head[9:10] == b"2":
            self.count += 1
        else:
            self.failures += 1
        if self.done.is_set():
            self.transport.close()
        else:
            self.send()


async def load(port: int, requests: Iterator[bytes], connections: int, duration_s: float) -> dict[str, float]:
    """Requests per second, and the 50th and 99th percentile of their latency in milliseconds."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    protocols = []
    started_s = time.perf_counter()
    for _ in range(connections):
        _, protocol = await loop.create_connection(lambda: Connection(requests, done), "127.0.0.1", port)
        protocols.append(protocol)
    await asyncio.sleep(duration_s)
    elapsed_s = time.perf_counter() - started_s
    done.set()
    await asyncio.sleep(0.2)
    latencies = sorted(latency for protocol in protocols for latency in protocol.latencies_s)
    return {
        "count": len(latencies),
        "per_s": sum(protocol.count for protocol in protocols) / elapsed_s,
        "failures": sum(protocol.failures for protocol in protocols),
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


if __name__ == "__main__":
    task = json.load(sys.stdin)
    texts = json.loads(Path(task["requests"]).read_text()) if "requests" in task else [task["request"]]
    cycle = itertools.cycle([text.encode() for text in texts])
    print(json.dumps(uvloop.run(load(task["port"], cycle, task["connections"], task["duration_s"]))))
