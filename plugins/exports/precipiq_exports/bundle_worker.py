"""A process that writes one bundle: a pickled task comes over standard input, JSON lines go out over standard output.

``{"done": n}``: rows read since the last such line. ``{"digest": hex}`` asks for a signature, which comes as a line
``{"signature": base64}``. ``{"result": {...}}``, ``{"error": sentence}`` or ``{"fault": traceback}`` is the last line.
The process ends when its standard input closes, so it never outlives the server that started it.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import queue
import sys
import threading
import traceback
from dataclasses import asdict

from precipiq_contracts.clock import SystemClock
from precipiq_contracts.errors import PrecipiqError
from precipiq_exports.bundle.spec import BundleSummary, BundleTask
from precipiq_exports.bundle.writer import write_bundle

_NICENESS = 10  # appends go first
_TOLD_EVERY_ROWS = 1000
_TOLD_EVERY_S = 0.2


class _Parent:
    """The server at the other end of the standard streams."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._untold = 0
        self._told_s = self._clock.monotonic_s()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._answers.put(line)
        os._exit(1)

    def tell(self, message: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def progress(self, count: int) -> None:
        self._untold += count
        if self._untold >= _TOLD_EVERY_ROWS or self._clock.monotonic_s() - self._told_s >= _TOLD_EVERY_S:
            self.tell({"done": self._untold})
            self._untold, self._told_s = 0, self._clock.monotonic_s()

    def sign(self, digest: bytes) -> bytes:
        self.tell({"digest": digest.hex()})
        return base64.b64decode(json.loads(self._answers.get())["signature"])


def _write(task: BundleTask, parent: _Parent) -> BundleSummary:
    """The file is new, nobody else's to read, and on disk when this returns."""
    task.path.unlink(missing_ok=True)
    descriptor = os.open(task.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        summary = write_bundle(task.auditor, task.spec, out, parent.sign, parent.progress)
        out.flush()
        os.fsync(out.fileno())
    return summary


def main() -> None:
    """Run the task on standard input."""
    os.nice(_NICENESS)
    task: BundleTask = pickle.load(sys.stdin.buffer)  # noqa: S301  (from the parent process, over a pipe)
    os.environ["SQLITE_TMPDIR"] = str(task.path.parent)  # there is room for a bundle, so for what is set aside too
    parent = _Parent()
    try:
        summary = _write(task, parent)
    except PrecipiqError as error:
        parent.tell({"error": error.message})
    except OSError as error:
        parent.tell({"error": f"the bundle cannot be written: {error.strerror or type(error).__name__}"})
    except Exception:  # noqa: BLE001  (a traceback on standard error would be no line of the server's log)
        parent.tell({"fault": traceback.format_exc()})
    else:
        parent.tell({"result": asdict(summary)})
    os._exit(0)


if __name__ == "__main__":
    main()
