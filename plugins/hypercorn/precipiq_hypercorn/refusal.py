"""Refusals before any layer sees the request, or after the last one left: the documented error, with a request id."""

from __future__ import annotations

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import PrecipiqError
from precipiq_core.http.envelope import error_answer
from precipiq_core.system import SystemRandomness

_REQUEST_ID_BYTES = 12

_randomness: Randomness = SystemRandomness()  # one for all: ``os`` keeps each instance's fork hook permanently


def refusal(error: PrecipiqError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an answer after which the connection ends."""
    answer = error_answer(error)
    request_id = f"req_{_randomness.bytes(_REQUEST_ID_BYTES).hex()}"
    headers = [
        *answer.headers,
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    return answer.status, headers, answer.body
