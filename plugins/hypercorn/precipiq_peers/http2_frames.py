"""What the frames of an HTTP/2 client cost, told before anything else reads them (RFC 9113 section 4.1).

A frame takes some bytes to send, and tens of microseconds to a millisecond to handle. So frames that carry next to
nothing are paid for from an ``Allowance``, and what a client sent at once is handed on in pieces of bounded work,
between which others get their turn.

    frame                                      costs
    PRIORITY                                   1, and is dropped: deprecated (section 5.3.2), and costly to obey
    PING, GOAWAY, RST_STREAM, CONTINUATION,    1
      DATA below ``TINY_BYTES``, others
    WINDOW_UPDATE                              2; one is earned by each KiB that the client is sent, up to ten a frame
    SETTINGS                                   10 and one for each 10 settings
    HEADERS                                    ``REQUEST``; earned by its answer, with two WINDOW_UPDATE: a request that
                                                 the client takes back, or makes the server reset, is not answered
    a frame beyond the size that the server    the connection, before it is kept in memory
      allows, or a head beyond its bound
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from precipiq_peers.allowance import Allowance

REQUEST = 10
"""What a request costs until its answer is complete."""

ANSWERED = REQUEST + 4
"""What a client earns with an answer that is complete: the request, and what opens the windows again."""

TINY_BYTES = 16
"""A DATA frame with less than this in it is counted."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_WORK_MAX = 32
_HEADER_BYTES = 9
_DATA, _HEADERS, _PRIORITY, _SETTINGS, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 2, 4, 8, 9
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4


class Flood(Exception):
    """The client is to be cut off. ``reason``: which limit it passed. ``is_size``: one frame was too large."""

    def __init__(self, reason: str, *, is_size: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_size = is_size


class _Frame(NamedTuple):
    length: int
    kind: int
    flags: int


class FrameMeter:
    """The frames of one client. ``frame_bytes_max``: of a payload. ``head_bytes_max``: of one head's fragments."""

    def __init__(self, allowance: Allowance, *, frame_bytes_max: int, head_bytes_max: int) -> None:
        self._allowance = allowance
        self._frame_bytes_max = frame_bytes_max
        self._head_bytes_max = head_bytes_max
        self._preface_left = len(PREFACE)
        self._header = bytearray()
        self._payload_left = 0
        self._is_dropped = False
        self._head_bytes: int | None = None  # of the head that is not complete

    def note_sent(self, byte_count: int) -> None:
        """Credit the client with a DATA frame of that many bytes: it has to open the windows again."""
        self._allowance.earn(min(byte_count // 512, 20))

    def note_answered(self) -> None:
        """Credit the client with a complete answer."""
        self._allowance.earn(ANSWERED)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The bytes to hand on, in pieces of bounded work. Raises ``Flood``."""
        piece = bytearray(data[: self._preface_left])
        at = len(piece)
        self._preface_left -= at
        work = 0
        while at < len(data):
            if not self._payload_left:
                if work >= _WORK_MAX:
                    yield bytes(piece)
                    piece.clear()
                    work = 0
                start, at = at, at + _HEADER_BYTES - len(self._header)
                self._header += data[start:at]
                if len(self._header) < _HEADER_BYTES:
                    break
                work += self._admit(_frame_of(self._header))
                if not self._is_dropped:
                    piece += self._header
                self._header.clear()
            start, at = at, at + self._payload_left
            payload = data[start:at]
            self._payload_left -= len(payload)
            if not self._is_dropped:
                piece += payload
        if piece:
            yield bytes(piece)

    def _admit(self, frame: _Frame) -> int:
        """Charge for a frame that begins; the work that it makes."""
        if frame.length > self._frame_bytes_max:
            raise Flood("frame size", is_size=True)
        self._payload_left = frame.length
        self._is_dropped = frame.kind == _PRIORITY and self._head_bytes is None
        if frame.kind in (_HEADERS, _CONTINUATION):
            self._head_bytes = (self._head_bytes or 0) + frame.length
            if self._head_bytes > self._head_bytes_max:
                raise Flood("head size")
            if frame.flags & _END_HEADERS:
                self._head_bytes = None
        cost = _cost(frame)
        if cost and self._allowance.spend(cost):
            raise Flood("frame rate")
        return cost or 1


def _frame_of(header: bytearray) -> _Frame:
    return _Frame(int.from_bytes(header[:3], "big"), header[3], header[4])


def _cost(frame: _Frame) -> int:
    if frame.kind == _DATA:
        return int(frame.length < TINY_BYTES and not frame.flags & _END_STREAM)
    if frame.kind == _SETTINGS and not frame.flags & _ACK:
        return 10 + frame.length // 60
    return {_HEADERS: REQUEST, _WINDOW_UPDATE: 2}.get(frame.kind, 1)
