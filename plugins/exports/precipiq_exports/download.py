"""A file as an answer: whole or in part, in bounded memory; the client can tell a short body from a whole one.

RFC 9110: preconditions in the order of section 13.2.2, one range of bytes (section 14). A request for several
ranges, or in an unknown unit, gets the whole file, as section 14.2 allows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

import structlog
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from precipiq_core.http.answers import LateFailure, OwnAnswer, while_client_stays
from precipiq_core.http.errors import RangeNotSatisfiable

log = structlog.get_logger("precipiq.http")

RawHeaders = tuple[tuple[bytes, bytes], ...]

SLICE_BYTES = 64 * 1024
"""The bytes that a client must take within the stall timeout, whatever the size of the pieces of ``read``."""

# A number with more digits than any file's size is ignored.
_ONE_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_NOT_SAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds until the answer begins, and for a client to take its next slice."""

    handler_timeout_s: float
    stall_timeout_s: float


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes ``start`` <= index < ``end``, and the status with which they are sent."""

    status: int
    start: int
    end: int


@dataclass(frozen=True)
class Download(OwnAnswer):
    """A file, whole or the part that the client asks for.

    ``read(start, end)``: the bytes ``start`` <= index < ``end`` in pieces; closed in any case, and not called for HEAD.
    ``etag``: names exactly these bytes: printable ASCII without quotes. ``on_begin(start, end)`` is awaited once the
    first of these bytes was read and before the status is sent, so its error is the answer; not for HEAD and 304.
    After it, ``on_end(start, sent)`` is awaited in any case, with the number of bytes that were sent; it must not
    raise. ``may_go_on`` is awaited before each slice of the body; False cuts the download off.

    Before the status is sent a download raises ``RangeNotSatisfiable``, the errors of ``read`` and ``on_begin``, and
    ``TimeoutError`` when these take longer than the handler may; after it, ``LateFailure``.
    """

    media_type: ClassVar[str] = "application/zip"
    has_ranges: ClassVar[bool] = True

    size_bytes: int
    read: Callable[[int, int], AsyncGenerator[bytes, None]]
    file_name: str
    etag: str
    times: Times
    on_begin: Callable[[int, int], Awaitable[None]] | None = None
    on_end: Callable[[int, int], Awaitable[None]] | None = None
    may_go_on: Callable[[], Awaitable[bool]] | None = None

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if _names(_field(scope, b"if-none-match"), self._tag):
            await _send_head(send, 304, ((b"etag", self._tag),))
            return
        part = self._part(scope)
        if scope["method"] == "HEAD":
            await _send_head(send, part.status, self._headers_of(part))
            return
        async with aclosing(self.read(part.start, part.end)) as pieces:
            async with asyncio.timeout(self.times.handler_timeout_s):
                first = await anext(pieces, b"")
                if self.on_begin is not None:
                    await self.on_begin(part.start, part.end)
            body = _Body(part.end - part.start, send, self.times.stall_timeout_s, self.may_go_on)
            try:
                await self._send_part(body, part, first, pieces, receive)
            finally:
                if self.on_end is not None:
                    await self.on_end(part.start, part.end - part.start - body.missing_bytes)

    async def _send_part(
        self, body: _Body, part: _Part, first: bytes, rest: AsyncIterator[bytes], receive: Receive
    ) -> None:
        try:
            await body.start(part.status, self._headers_of(part))
            async with while_client_stays(receive) as left:
                await body.take(first, rest)
            if not left.expired():
                await body.end()
        except _Stalled:
            log.info("download cut off: its client takes nothing", missing_bytes=body.missing_bytes)
        except _Refused:
            log.info("download cut off: its key is not accepted any more", missing_bytes=body.missing_bytes)
        except Exception as error:
            raise LateFailure from error  # the client has the status already, whatever the error

    def _part(self, scope: AsgiScope) -> _Part:
        asked = _field(scope, b"range")
        condition = _field(scope, b"if-range")
        if asked is None or scope["method"] != "GET" or condition not in (None, self._tag):
            return _Part(200, 0, self.size_bytes)
        return _part_of_range(asked, self.size_bytes)

    @property
    def _tag(self) -> bytes:
        return b'"%b"' % self.etag.encode("ascii")

    def _headers_of(self, part: _Part) -> RawHeaders:
        name = _NOT_SAFE.sub("_", self.file_name).encode()
        headers: RawHeaders = (
            (b"content-type", self.media_type.encode()),
            (b"content-length", b"%d" % (part.end - part.start)),
            (b"content-disposition", b'attachment; filename="%b"' % name),
            (b"accept-ranges", b"bytes"),
            (b"etag", self._tag),
        )
        if part.status == 206:
            place = b"bytes %d-%d/%d" % (part.start, part.end - 1, self.size_bytes)
            headers += ((b"content-range", place),)
        return headers


class _Stalled(Exception):
    """The client did not take the sent bytes in time."""


class _Refused(Exception):
    """The client may have no more of the bytes."""


class _Body:
    """The body while it is sent. ``missing_bytes``: promised bytes that are not sent yet."""

    def __init__(
        self, size_bytes: int, send: Send, stall_timeout_s: float, may_go_on: Callable[[], Awaitable[bool]] | None
    ) -> None:
        self.missing_bytes = size_bytes
        self._send = send
        self._stall_timeout_s = stall_timeout_s
        self._may_go_on = may_go_on

    async def start(self, status: int, headers: RawHeaders) -> None:
        await self._send_in_time({"type": "http.response.start", "status": status, "headers": [*headers]})

    async def take(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        await self._take_piece(first)
        async for piece in rest:
            await self._take_piece(piece)

    async def end(self) -> None:
        """End the body. Raises ``ValueError`` for one shorter than promised: ending it would make it pass for whole."""
        if self.missing_bytes:
            raise ValueError(f"the body lacks {self.missing_bytes} bytes of the download's size")
        await self._send_in_time({"type": "http.response.body", "body": b""})

    async def _take_piece(self, piece: bytes) -> None:
        for start in range(0, len(piece), SLICE_BYTES):
            part = piece[start : start + SLICE_BYTES]
            if self._may_go_on is not None and not await self._may_go_on():
                raise _Refused
            await self._send_in_time({"type": "http.response.body", "body": part, "more_body": True})
            self.missing_bytes -= len(part)

    async def _send_in_time(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await self._send(message)
        except TimeoutError:
            raise _Stalled from None


def _part_of_range(asked: bytes, size_bytes: int) -> _Part:
    match = _ONE_RANGE.fullmatch(asked)
    first, last = match.groups() if match else (b"", b"")
    if not (first or last) or (first and last and int(last) < int(first)):
        return _Part(200, 0, size_bytes)
    start = int(first) if first else max(size_bytes - int(last), 0)
    end = min(int(last) + 1, size_bytes) if first and last else size_bytes
    if start >= end:
        raise RangeNotSatisfiable(size_bytes)
    return _Part(206, start, end)


def _names(tags: bytes | None, tag: bytes) -> bool:
    """Whether a list of entity tags holds that tag, by weak comparison (RFC 9110 section 13.1.2)."""
    held = [each.strip().removeprefix(b"W/") for each in (tags or b"").split(b",")]
    return tag in held or held == [b"*"]


def _field(scope: AsgiScope, name: bytes) -> bytes | None:
    """The fields of that name as one (RFC 9110 section 5.3)."""
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values) if values else None


async def _send_head(send: Send, status: int, headers: RawHeaders) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": b""})
