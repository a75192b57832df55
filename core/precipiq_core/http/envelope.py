"""The shape of every answer, and the one place where error codes become HTTP statuses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from precipiq_contracts.errors import PrecipiqError, RateLimited, Unauthorized, Unavailable
from precipiq_core.http.answers import OwnAnswer
from precipiq_core.http.errors import RangeNotSatisfiable

STATUS_OF = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "idempotency_conflict": 409,
    "gone": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "validation_error": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "unavailable": 503,
}

JSON_TYPE = (b"content-type", b"application/json")
DENIAL = "websocket.http.response"
"""The extension of ASGI by which a handshake is refused with an answer."""

Headers = Iterable[tuple[bytes, bytes]]

_DETAIL_PATHS_MAX = 100


@dataclass(frozen=True)
class Answer(OwnAnswer):
    """A complete HTTP answer; its length is added."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON_TYPE,)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(send, self)


def raw_json(text: bytes) -> orjson.Fragment:
    """Canonical JSON bytes to be placed into an answer as they are."""
    return orjson.Fragment(text)


def encode(data: object) -> bytes:
    """JSON of plain data, pydantic models and :func:`raw_json` fragments."""
    return orjson.dumps(data, default=_encode_model)


def _encode_model(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


async def send_answer(send: Send, answer: Answer, extra: Headers = (), *, kind: str = "http.response") -> None:
    """Send a complete answer, with its length."""
    length = (b"content-length", b"%d" % len(answer.body))
    headers = [*answer.headers, *extra, length]
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body})


def success(data: object, *, request_id: str, timestamp: str) -> bytes:
    """``{"data": ..., "meta": {...}}``."""
    return b'{"data":%b,"meta":{"request_id":"%b","timestamp":"%b"}}' % (
        encode(data),
        request_id.encode(),
        timestamp.encode(),
    )


def error_answer(error: PrecipiqError) -> Answer:
    """The documented error answer. ``code`` and ``message`` come first, within the SDK's 512 bytes."""
    content: dict[str, object] = {"code": error.code, "message": error.message[:300]}
    if error.details:
        content["details"] = {path: list(error.details[path]) for path in list(error.details)[:_DETAIL_PATHS_MAX]}
    headers: tuple[tuple[bytes, bytes], ...] = (JSON_TYPE,)
    if isinstance(error, RateLimited | Unavailable):
        headers += ((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))),)
    if isinstance(error, Unauthorized):
        headers += ((b"www-authenticate", b'Bearer realm="precipiq"'),)
    if isinstance(error, RangeNotSatisfiable):
        headers += ((b"content-range", b"bytes */%d" % error.size_bytes),)
    return Answer(status_of(type(error)), orjson.dumps({"error": content}), headers)


def status_of_code(code: str) -> int | None:
    """The status of errors of that code, a plugin's own too; None when no error has the code."""
    return next((status_of(error) for error in _with_leaves(PrecipiqError) if error.code == code), None)


def _with_leaves(error: type[PrecipiqError]) -> Iterator[type[PrecipiqError]]:
    yield error
    for leaf in error.__subclasses__():
        yield from _with_leaves(leaf)


def status_of(error: type[PrecipiqError]) -> int:
    """The status; a plugin's own leaf has that of the nearest ancestor whose code has one."""
    for ancestor in error.__mro__:
        status = STATUS_OF.get(getattr(ancestor, "code", ""))
        if status is not None:
            return status
    return 500
