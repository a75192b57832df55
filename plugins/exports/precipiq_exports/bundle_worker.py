"""A process that writes one bundle: a pickled task comes over standard input, JSON lines go out over standard output.

``{"done": n}``: entries read since the last line. ``{"digest": hex}``: asks for a signature, which comes as a line
``{"signature": base64}``. ``{"result": ...}`` or ``{"error": sentence}`` is the last line. It ends when its standard
input closes, so it never outlives the server that started it.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import queue
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from precipiq_core.contracts.entry_store import EntryAuditor
from precipiq_core.errors import PrecipiqError
from precipiq_exports.bundle.spec import BundleSpec
from precipiq_exports.bundle.writer import write_bundle

_NICENESS = 5  # appends go first
_TOLD_EVERY_ENTRIES = 5000


@dataclass(frozen=True, slots=True)
class BundleTask:
    """What to write, from what, and where to."""

    auditor: EntryAuditor
    spec: BundleSpec
    path: Path


class _Parent:
    """The server at the other end of the standard streams."""

    def __init__(self) -> None:
        self._untold = 0
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._answers.put(line)
        os._exit(1)

    def tell(self, **message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def progress(self, count: int) -> None:
        self._untold += count
        if self._untold >= _TOLD_EVERY_ENTRIES:
            self.tell(done=self._untold)
            self._untold = 0

    def sign(self, digest: bytes) -> bytes:
        self.tell(digest=digest.hex())
        return base64.b64decode(json.loads(self._answers.get())["signature"])


def main() -> None:
    """Run the task on standard input."""
    os.nice(_NICENESS)
    task: BundleTask = pickle.load(sys.stdin.buffer)  # noqa: S301  (from the parent process, over a pipe)
    parent = _Parent()
    try:
        descriptor = os.open(task.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            summary = write_bundle(task.auditor, task.spec, out, parent.sign, parent.progress)
            out.flush()
            os.fsync(out.fileno())
    except PrecipiqError as error:
        parent.tell(error=error.message)
    except OSError as error:
        parent.tell(error=f"the bundle cannot be written: {error.strerror or type(error).__name__}")
    else:
        parent.tell(result=asdict(summary))
    os._exit(0)


if __name__ == "__main__":
    main()
