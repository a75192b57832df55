"""Time and randomness of the machine: no other module reads its clock or its random source. Tests replace it whole."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass


def _monotonic_s() -> float:
    """Counts the time that the machine was suspended too, where the system tells it: a lease ends meanwhile."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


def _find_boot_clock() -> int | None:
    try:
        clock_id: int = time.CLOCK_BOOTTIME
        time.clock_gettime(clock_id)
    except (AttributeError, OSError):
        return None
    return clock_id


_BOOT_CLOCK = _find_boot_clock()


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return _monotonic_s()


class SystemRandomness:
    """The operating system's random source, read a few kilobytes at a time; no byte is used twice."""

    _POOL_BYTES = 4096

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool = b""
        self._used = 0
        os.register_at_fork(after_in_child=self._forget)

    def bytes(self, count: int) -> bytes:
        with self._lock:
            start = self._used
            if start + count > len(self._pool):
                self._pool = os.urandom(max(self._POOL_BYTES, count))
                start = 0
            self._used = start + count
            return self._pool[start : self._used]

    def __reduce__(self) -> tuple[type[SystemRandomness], tuple[()]]:
        """A process that unpickles it reads the operating system's source itself."""
        return SystemRandomness, ()

    def _forget(self) -> None:
        """A forked child must not use the bytes that its parent uses."""
        self._lock = threading.Lock()
        self._pool, self._used = b"", 0
