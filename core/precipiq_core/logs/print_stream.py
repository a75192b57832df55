"""Standard output and error as log lines, so that no plugin's ``print`` shows a secret."""

from __future__ import annotations

import io
import threading
from typing import Any

from precipiq_core.logs.sink import Sink, log_time


class PrintStream(io.TextIOBase):
    """Standard output or error: each printed line becomes a log line.

    What is written at once is scrubbed at once, for a private key is many lines. A line longer than a log line may be
    is written when it is, and the rest of it dropped: nothing waits without bound.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, sink: Sink, name: str) -> None:
        super().__init__()
        self._sink = sink
        self._name = name
        self._pending = ""
        self._dropping = False
        self._lock = threading.RLock()
        self.buffer = _PrintBytes(self)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            whole, line_break, rest = (self._pending + text).rpartition("\n")
            if line_break:
                self._pending = rest
                self._emit(whole, first_is_dropped=self._dropping)
                self._dropping = False
            elif not self._dropping:
                self._pending = rest
            if len(self._pending) > self._sink.line_bytes_max:
                self._dropping = True
                self.finish()
        return len(text)

    def finish(self) -> None:
        """Write what waits for its line break."""
        with self._lock:
            text, self._pending = self._pending, ""
            self._emit(text)

    def _emit(self, text: str, *, first_is_dropped: bool = False) -> None:
        clean = self._sink.scrubber.line(text.encode("utf-8", "replace")).decode("utf-8", "replace")
        for line in clean.split("\n")[first_is_dropped:]:
            if line.strip():
                self._sink.write({"timestamp": log_time(), "level": "info", "logger": self._name, "event": line})


class _PrintBytes(io.RawIOBase):
    """What ``sys.stdout.buffer`` is: the same for bytes."""

    def __init__(self, text: PrintStream) -> None:
        super().__init__()
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._text.write(content.decode("utf-8", "replace"))
        return len(content)
