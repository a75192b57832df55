"""Where lines go: serialise, scrub, cut, write. A line that cannot be written never breaks what was being done."""

from __future__ import annotations

import threading
from typing import BinaryIO

import orjson

from precipiq_core.logs.scrub import Scrubber


class Sink:
    """One stream, one line at a time. ``line_bytes_max``: longer lines are cut, after scrubbing."""

    def __init__(self, stream: BinaryIO, scrubber: Scrubber, line_bytes_max: int) -> None:
        self._stream = stream
        self.scrubber = scrubber
        self._line_bytes_max = line_bytes_max
        self._lock = threading.Lock()

    def write(self, event: dict[str, object]) -> None:
        """Write an event whose values were scrubbed by name, or come from us."""
        try:
            line = orjson.dumps(event, default=_text, option=orjson.OPT_NON_STR_KEYS)
        except (TypeError, ValueError, RecursionError):
            line = orjson.dumps({key: _text(value) for key, value in event.items()})
        self.write_line(line)

    def write_line(self, line: bytes) -> None:
        """Write one serialised event, without its line break."""
        line = self.scrubber.line(line)
        if len(line) > self._line_bytes_max:
            line = _cut(line, self._line_bytes_max)
        try:
            with self._lock:
                self._stream.write(line + b"\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass  # a closed or broken log stream must not take the server down


def _cut(line: bytes, size: int) -> bytes:
    text = line[: size - 100].decode(errors="ignore")
    return orjson.dumps({"event": "line cut", "cut": True, "line": text})[: size * 2]


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    try:
        return str(value)[:10_000].encode("utf-8", "replace").decode()
    except Exception as error:  # noqa: BLE001  (a plugin's __str__ may fail in any way)
        return f"<{type(value).__name__}: {type(error).__name__} in its text form>"
