"""Standard output and error as log lines, so that no plugin's ``print`` shows a secret."""

from __future__ import annotations

import io
import threading
from typing import Any

from precipiq_logs.sink import Sink


class PrintedBytes(io.RawIOBase):
    """The bytes of standard output or error: each line of them becomes a log line.

    The text of one write is scrubbed as a whole, because a private key has many lines. A line that exceeds the longest
    log line is written at that length, and its rest dropped, so that memory is bounded.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        super().__init__()
        self._sink = sink
        self._logger = name
        self.name = f"<{name}>"
        self._pending = b""
        self._dropping = False
        self._lock = threading.RLock()

    def as_text(self) -> io.TextIOWrapper:
        """The replacement of ``sys.stdout``; it does not buffer."""
        return io.TextIOWrapper(self, "utf-8", "replace", newline="\n", write_through=True)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        with self._lock:
            whole, line_break, rest = (self._pending + content).rpartition(b"\n")
            if line_break:
                self._pending = rest
                self._emit(whole, first_is_dropped=self._dropping)
                self._dropping = False
            elif not self._dropping:
                self._pending = rest
            if len(self._pending) > self._sink.line_bytes_max:
                self._dropping = True
                self.finish()
        return len(content)

    def finish(self) -> None:
        """Write the text that waits for its line break."""
        with self._lock:
            content, self._pending = self._pending, b""
            self._emit(content)

    def _emit(self, content: bytes, *, first_is_dropped: bool = False) -> None:
        text = content.decode("utf-8", "replace").encode()
        clean = self._sink.scrubber.line(text).decode("utf-8", "replace")
        for line in clean.split("\n")[first_is_dropped:]:
            if line.strip():
                self._sink.write(
                    {"timestamp": self._sink.time(), "level": "info", "logger": self._logger, "event": line}
                )
