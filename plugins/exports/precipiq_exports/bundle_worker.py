"""The program of the process that writes one bundle; ``bundle_process`` starts it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from precipiq_contracts.errors import Unavailable
from precipiq_core.system import SystemClock
from precipiq_exports.bundle.spec import BundleSummary, BundleTask

_NICENESS = 10  # appends go first
_TOLD_EVERY_ROWS = 1000
_TOLD_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class BundleServant:
    """Writes the bundle of that task. That process alone imports the writer."""

    task: BundleTask

    def write(self, sign: Callable[[bytes], bytes], progress: Callable[[int], None]) -> BundleSummary:
        """Write a new file, readable by its owner alone, and on disk on return. Raises ``Unavailable``."""
        from precipiq_exports.bundle.writer import write_bundle

        os.nice(_NICENESS)
        path = self.task.path
        os.environ["SQLITE_TMPDIR"] = str(path.parent)  # a volume with room for a bundle has room for the context too
        try:
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                summary = write_bundle(self.task.auditor, self.task.spec, out, sign, _Thrifty(progress))
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise Unavailable(f"the bundle cannot be written: {error.strerror or type(error).__name__}") from error
        return summary


class _Thrifty:
    """Adds up the entries read, and reports the sum now and then."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self._clock = SystemClock()
        self._untold = 0
        self._told_s = self._clock.monotonic_s()

    def __call__(self, count: int) -> None:
        self._untold += count
        if self._untold >= _TOLD_EVERY_ROWS or self._clock.monotonic_s() - self._told_s >= _TOLD_EVERY_S:
            self._progress(self._untold)
            self._untold, self._told_s = 0, self._clock.monotonic_s()
