"""What a log line costs, by kind, beside plain ``logging``; what scrubbing costs; and the worst lines that we know."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from precipiq_testkit.clock import SeededRandomness

from precipiq_core.clock import SystemClock
from precipiq_core.logs.credential_shield import CredentialShield
from precipiq_core.logs.request_log import RequestLog
from precipiq_core.logs.scrub import Scrubber
from precipiq_core.logs.settings import LogSettings
from precipiq_core.logs.setup import configure_logging
from precipiq_core.logs.sink import Sink

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3")) * 3
CALLS = 3000
MEGABYTE = 1_000_000
WORST = (b"a", b"%25", b"%70%71", b"\\u0070", b"basic A%20", b"pq_test_aaaa...", b'api_key=\\"', b"eyJaaaaaaaa.", b"://a:")


class Discard(io.RawIOBase):
    """A stream that costs nothing: what is measured is ours."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def median_us(call: Callable[[], object], calls: int = CALLS) -> float:
    rounds = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - started_s) / calls * 1e6)
    return statistics.median(rounds)


def show(what: str, value: float, unit: str, limit: float | None = None) -> None:
    aim = f"   aim <= {limit:g} {unit}" if limit is not None else ""
    print(f"{what:58}{value:9.2f} {unit}{aim}")


def lines() -> None:
    own = structlog.get_logger("bench")
    foreign = logging.getLogger("bench.foreign")

    def event() -> None:
        own.info("entry appended", seq=12345, kind="decision", org_id="org_1", environment="test", duration_ms=1.25)

    show("own event, 5 fields", median_us(event), "us")
    show("own event, filtered out", median_us(lambda: own.debug("entry appended", seq=12345)), "us")
    message = "appended %s to chain of %s in %d ms"
    show("record of another logger", median_us(lambda: foreign.info(message, "decision", "org_1", 3)), "us")
    show("record of another logger, filtered out", median_us(lambda: foreign.debug(message, "decision", "org_1", 3)), "us")

    def failure() -> None:
        try:
            int("x")
        except ValueError:
            own.exception("failed")

    show("own event with an exception", median_us(failure, CALLS // 10), "us")


def plain_logging() -> None:
    """The limit: the standard library alone, writing text."""
    plain = logging.Logger("plain", logging.INFO)
    handler = logging.StreamHandler(io.TextIOWrapper(io.BufferedWriter(Discard())))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    plain.addHandler(handler)
    message = "appended %s to chain of %s in %d ms"
    show("limit: plain logging, text", median_us(lambda: plain.info(message, "decision", "org_1", 3)), "us")


def drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what never waits, without the event loop's own cost."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waited")


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"x" * 200})


async def _receive() -> Any:
    return {"type": "http.request"}


async def _send(message: Any) -> None:
    pass


def requests(sink: Sink) -> None:
    key = b"pq_test_" + b"A" * 49
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"user-agent", b"precipiq-python/0.1.0"),
        (b"accept", b"*/*"),
        (b"content-type", b"application/json"),
        (b"content-length", b"300"),
        (b"x-precipiq-key", key),
    ]
    base = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/decisions",
        "raw_path": b"/api/v1/decisions",
        "client": ("127.0.0.1", 5000),
        "precipiq.route": "/api/v1/decisions",
        "precipiq.principal_ids": ("org_1", "key_1"),
    }

    def logged(written: Sink | None) -> RequestLog:
        observe = lambda method, route, status, duration_s: None  # noqa: E731
        return RequestLog(_app, clock=SystemClock(), randomness=SeededRandomness(), observe=observe, sink=written)

    def cost(app: Any, query: bytes = b"") -> float:
        scope = {**base, "headers": headers, "query_string": query}
        return median_us(lambda: drive(app(dict(scope), _receive, _send)))

    bare = cost(_app)
    show("request log with its line", cost(logged(sink)) - bare, "us", 15)
    show("request log, lines off", cost(logged(None)) - bare, "us")
    show("credential shield, key in a header", cost(CredentialShield(_app)) - bare, "us", 5)
    show("credential shield, key in the query", cost(CredentialShield(_app), b"after_seq=5&api_key=" + key) - bare, "us")


def scrubbing() -> None:
    scrubber = Scrubber()
    kilobyte = (b'{"timestamp":"2026-01-01T00:00:00.000000Z","event":"' + b"appended 12 entries in 3 ms; " * 40)[:1022] + b'"}'
    show("scrub a line of 1 KB without a secret", median_us(lambda: scrubber.line(kilobyte)), "us", 10)
    planted = kilobyte[:500] + b"pq_test_" + b"A" * 49 + kilobyte[500:]
    show("scrub a line of 1 KB with a key", median_us(lambda: scrubber.line(planted)), "us")
    for unit in WORST:
        line = b'{"event":"' + (unit * (MEGABYTE // len(unit) + 1))[:MEGABYTE] + b'"}'
        show(f"scrub 1 MB of {unit.decode()}", median_us(lambda line=line: scrubber.line(line), 1) / 1000, "ms", 50)  # type: ignore[misc]


def main() -> None:
    plain_logging()
    control = configure_logging(LogSettings(), stream=Discard())  # type: ignore[call-arg, arg-type]
    try:
        with structlog.contextvars.bound_contextvars(request_id="req_aaaaaaaaaaaaaaaaaaaaaaaa"):
            lines()
        requests(control.sink)
    finally:
        control.restore()
    scrubbing()


if __name__ == "__main__":
    asyncio.set_event_loop(None)
    main()
