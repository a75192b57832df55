"""Writes log lines: serialise, scrub, cut, write. A line that cannot be written never fails the caller."""

from __future__ import annotations

import re
import threading
from typing import BinaryIO

import orjson

from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_logs.scrub import Scrubber

_HEAD = re.compile(rb'\{"timestamp":"[^"\\]{1,40}","level":"[^"\\]{1,40}","logger":"[^"\\]{1,200}"')
_ROOM_BYTES = 400


class Sink:
    """One stream, one line at a time. ``line_bytes_max``: longer lines are cut, after scrubbing.

    ``worker``: number of this process among those that share the stream; each line gets it as its last field.
    """

    def __init__(
        self, stream: BinaryIO, scrubber: Scrubber, clock: Clock, line_bytes_max: int, worker: int | None = None
    ) -> None:
        self._stream = stream
        self._clock = clock
        self.scrubber = scrubber
        self._worker = b"" if worker is None else b',"worker":%d}' % worker
        self.line_bytes_max = line_bytes_max - len(self._worker)
        # Reentrant: a finalizer that the garbage collector runs during a write may log as well.
        self._lock = threading.RLock()

    def time(self) -> str:
        """Now, as lines have it."""
        return format_timestamp(self._clock.now_us())

    def write(self, event: dict[str, object]) -> None:
        """Write an event whose values were scrubbed by name, or come from the server."""
        try:
            line = orjson.dumps(event, default=_text, option=orjson.OPT_NON_STR_KEYS)
        except (TypeError, ValueError, RecursionError):
            line = orjson.dumps({_text(key): _text(value) for key, value in event.items()})
        self.write_line(line)

    def write_line(self, line: bytes) -> None:
        """Write one serialised event, without its line break."""
        self.write_clean(self.scrubber.line(line))

    def write_clean(self, line: bytes) -> None:
        """Write a line all of whose foreign parts the caller has scrubbed already."""
        if len(line) > self.line_bytes_max:
            line = _cut(line, self.line_bytes_max)
        if self._worker:
            line = line[:-1] + self._worker
        try:
            with self._lock:
                self._stream.write(line + b"\n")
                self._stream.flush()
        except (OSError, ValueError, RuntimeError):
            pass  # a closed, broken or busy log stream must not take the server down


def _cut(line: bytes, size: int) -> bytes:
    head = _HEAD.match(line)
    start = head[0] + b"," if head else b"{"
    for room in (size - _ROOM_BYTES, (size - _ROOM_BYTES) // 2):  # quotes and backslashes are escaped once more
        text = orjson.dumps(line[:room].decode(errors="ignore"))
        cut = start + b'"event":"line cut","cut":true,"line":' + text + b"}"
        if len(cut) <= size:
            break
    return cut


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    try:
        return str(value).encode("utf-8", "replace").decode()
    except Exception as error:  # noqa: BLE001  (a plugin's __str__ may fail in any way)
        return f"<{type(value).__name__}: {type(error).__name__} in its text form>"
