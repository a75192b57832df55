"""The bytes of an answer, as h11 writes them: a plain one here, any other by h11 itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

import h11
from hypercorn.utils import build_and_validate_headers, suppress_body

Fields = Sequence[tuple[bytes, bytes]]

_LINES = re.compile(rb"(?:[a-z0-9-]++: (?:[\x21-\x7e]++(?:[ \t]++[\x21-\x7e]++)*+)?\r\n)++")
_LENGTH_DIGITS_MAX = 18
_NO_BODY = (204, 304)
_FOR_H11 = frozenset((b"transfer-encoding", b"host"))


class PlainAnswer:
    """An answer whose head is plain. ``start``: the bytes of its head.

    ``left``: bytes of the body still to come; None: sent in chunks.
    """

    __slots__ = ("_ended", "_keeps_alive", "_left", "is_bodiless", "start")

    def __init__(self, start: bytes, left: int | None, *, is_bodiless: bool, keeps_alive: bool) -> None:
        self.start = start
        self.is_bodiless = is_bodiless
        self._left = left
        self._keeps_alive = keeps_alive
        self._ended = False

    def data(self, data: bytes) -> bytes:
        """The bytes of a part of the body. Raises ``h11.LocalProtocolError`` beyond the declared length."""
        if self._left is None:
            return b"%x\r\n%b\r\n" % (len(data), data)
        self._left -= len(data)
        if self._left < 0:
            raise h11.LocalProtocolError("Too much data for declared Content-Length")
        return data

    def end(self) -> bytes:
        """The bytes after the body. Raises ``h11.LocalProtocolError`` before the declared length is reached."""
        if self._left:
            raise h11.LocalProtocolError("Too little data for declared Content-Length")
        self._ended = True
        return b"0\r\n\r\n" if self._left is None else b""

    @property
    def is_reusable(self) -> bool:
        """Whether it is complete, and another may follow on the connection."""
        return self._ended and self._keeps_alive


class H11Answer:
    """Any other: written by an h11 that was shown the request's head. Raises as h11 does."""

    __slots__ = ("_connection", "is_bodiless", "start")

    def __init__(self, request_head: bytes, status: int, fields: Fields, *, is_bodiless: bool) -> None:
        self._connection = h11.Connection(h11.SERVER)
        self._connection.receive_data(request_head)
        self._connection.next_event()
        kind = h11.Response if status >= 200 else h11.InformationalResponse
        self.start = self._send(kind(status_code=status, headers=list(fields)))
        self.is_bodiless = is_bodiless

    def data(self, data: bytes) -> bytes:
        """The bytes of a part of the body."""
        return self._send(h11.Data(data=data))

    def end(self) -> bytes:
        """The bytes after the body."""
        return self._send(h11.EndOfMessage())

    @property
    def is_reusable(self) -> bool:
        """As for a plain answer."""
        return self._connection.our_state is h11.DONE

    def _send(self, event: h11.Event) -> bytes:
        return self._connection.send(event) or b""


Answer = PlainAnswer | H11Answer


def begin_answer(method: str, request_head: bytes, status: int, headers: Fields, own: Fields) -> Answer:
    """The answer to a plain request. ``own``: the server's fields, which follow. Raises as h11 does."""
    is_bodiless = suppress_body(method, status)
    if 200 <= status < 600:
        answer = _begin_plain(status, [*headers, *own], is_bodiless=is_bodiless)
        if answer is not None:
            return answer
    fields = [*build_and_validate_headers(headers), *own]
    return H11Answer(request_head, status, fields, is_bodiless=is_bodiless)


def _begin_plain(status: int, fields: Fields, *, is_bodiless: bool) -> PlainAnswer | None:
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    if lines.count(b"\r\n") != len(fields) or not _LINES.fullmatch(lines):
        return None
    length, keeps_alive = None, True
    for name, value in fields:
        if b":" in name:
            return None  # what looks like its value is a part of it
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
                return None
            length = int(value)
        elif name == b"connection":
            if not keeps_alive or value != b"close":
                return None
            keeps_alive = False
        elif name in _FOR_H11:
            return None
    framing = b"Transfer-Encoding: chunked\r\n" if length is None and status not in _NO_BODY else b""
    start = b"HTTP/1.1 %d \r\n%b%b\r\n" % (status, lines, framing)
    return PlainAnswer(start, 0 if is_bodiless else length, is_bodiless=is_bodiless, keeps_alive=keeps_alive)
