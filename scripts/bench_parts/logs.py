"""What logging costs: medians of five rounds, microseconds each. Run with the project's Python; writes to memory."""

from __future__ import annotations

import asyncio
import io
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import structlog

from precipiq_core.edge.credential_shield import CredentialShield
from precipiq_core.edge.request_log import RequestLog
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_logs.scrub import Scrubber
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging
from precipiq_logs.sink import Sink

_ROUNDS = 5
_ROUND_S = 0.2
_ID = "0192f0c1-2f3a-7000-8000-0123456789ab"


class _Nowhere(io.BytesIO):
    """A stream that keeps nothing, so that memory does not count."""

    def write(self, data: Any) -> int:
        return len(data)


def median_us(act: Callable[[int], None], least: int = 1) -> float:
    """``act(count)`` does the thing that often; what one takes, microseconds."""
    count = least
    while (took_s := _timed_s(act, count)) < _ROUND_S and least > 1:
        count = max(count * 2, int(count * _ROUND_S / max(took_s, 1e-6)))
    return statistics.median(_timed_s(act, count) / count * 1e6 for _ in range(_ROUNDS))


def _timed_s(act: Callable[[int], None], count: int) -> float:
    start_s = time.perf_counter()
    act(count)
    return time.perf_counter() - start_s


def _events(count: int) -> None:
    log = structlog.get_logger("precipiq.bench")
    for _ in range(count):
        log.info("sealed", chain=_ID, entries=17, duration_ms=1.25, kinds=["decision", "outcome"])


def _records(count: int) -> None:
    log = logging.getLogger("bench")
    for _ in range(count):
        log.info("connection %s of %d closed", _ID, 17)


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def _ignore(*_: object) -> None:
    """What the server does with a message."""


def _requests(app: Any) -> Callable[[int], None]:
    headers = [(b"host", b"localhost"), (b"x-precipiq-key", b"k" * 57), (b"content-type", b"application/json")]
    headers += [(b"accept", b"*/*"), (b"user-agent", b"bench"), (b"content-length", b"300")]
    scope = {
        "type": "http", "method": "POST", "path": f"/decisions/{_ID}", "raw_path": b"/decisions", "query_string": b"",
        "headers": headers, "client": ("127.0.0.1", 5), "scheme": "http", "precipiq.route": "/decisions/{id}",
        "precipiq.principal_ids": (_ID, _ID), "extensions": {}, "state": {}, "server": None, "http_version": "1.1",
    }  # fmt: skip

    async def run(count: int) -> None:
        for _ in range(count):
            await app(scope, _ignore, _ignore)

    return lambda count: asyncio.run(run(count))


def measure() -> dict[str, float]:
    """Costs by name, microseconds."""
    control = configure_logging(LogSettings(), SystemClock(), stream=_Nowhere())  # type: ignore[call-arg]
    scrubber = control.sink.scrubber
    prose = b'{"event":"' + b"served /decisions/17 of the chain to 127.0.0.1 in 12 ms, status ok; " * 15 + b'"}'
    hostile = {"backslashes": b"\\", "percents": b"%25", "prefixes": b"pq_test_1234567 ", "jwt": b"eyJaaaaaaaa-"}
    try:
        costs = {
            "own event": median_us(lambda count: _events(count), 100),
            "foreign record": median_us(lambda count: _records(count), 100),
            "request without shield and log": median_us(_requests(_answer), 100),
            "request, shield and access line": median_us(_requests(CredentialShield(_request_log(control.sink))), 100),
            "scrub of 1 KB": median_us(lambda count: _scrubs(scrubber, prose, count), 100),
        }
        for name, unit in hostile.items():
            text = unit * (1_000_000 // len(unit))
            costs[f"scrub of 1 MB of {name}"] = median_us(lambda count, text=text: _scrubs(scrubber, text, count))  # type: ignore[misc]
    finally:
        control.restore()
    return costs


def _request_log(sink: Sink) -> RequestLog:
    clock, randomness = SystemClock(), SystemRandomness()
    return RequestLog(_answer, clock=clock, randomness=randomness, observe=lambda *_: None, sink=sink)


def _scrubs(scrubber: Scrubber, line: bytes, count: int) -> None:
    for _ in range(count):
        scrubber.line(line)


if __name__ == "__main__":
    for name, cost_us in measure().items():
        print(f"{name:36} {cost_us:12,.1f} us")
