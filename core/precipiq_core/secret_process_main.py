"""The other side of ``secret_process``: takes a servant, then serves calls over its standard streams until they close.

Imports little, so that it starts in the blink of an eye.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO

from precipiq_contracts.errors import InternalError, PrecipiqError

LENGTH_BYTES = 4

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


class _Host:
    """Holds the servant."""

    _servant: object

    def take(self, message: bytes) -> None:
        _keep_to_yourself()
        self._servant = pickle.loads(message)  # noqa: S301  (from the process that started this one)

    def call(self, message: bytes) -> object:
        method, arguments = pickle.loads(message)  # noqa: S301
        return getattr(self._servant, method)(*arguments)


def main() -> None:
    """Answer the servant with None, then each call with what it returns, or with the error that it raises."""
    incoming, outgoing = _streams()
    host = _Host()
    work: Callable[[bytes], object] = host.take
    while (message := _read(incoming)) is not None:
        outgoing.write(framed(_answer(work, message)))
        outgoing.flush()
        work = host.call


def framed(message: bytes) -> bytes:
    """A message as it goes through a pipe: behind its length."""
    return len(message).to_bytes(LENGTH_BYTES) + message


def _answer(work: Callable[[bytes], object], message: bytes) -> bytes:
    """Whether it went well, and the result or the error, pickled."""
    try:
        return pickle.dumps((True, work(message)))
    except PrecipiqError as error:
        return pickle.dumps((False, error))
    except Exception as error:  # noqa: BLE001  (its text may hold a secret: only its type goes out)
        return pickle.dumps((False, InternalError(f"{type(error).__name__} in a process that holds secrets")))


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Both pipes; whatever else writes to standard output then writes to nobody."""
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin.buffer, outgoing


def _read(stream: BinaryIO) -> bytes | None:
    """The next message; None when the other side is gone."""
    head = stream.read(LENGTH_BYTES)
    size = int.from_bytes(head)
    message = stream.read(size)
    return message if len(head) == LENGTH_BYTES and len(message) == size else None


def _keep_to_yourself() -> None:
    """No core dumps, no tracing by others of the same user, and no life after the parent's. Raises ``OSError``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's go to the whole group; the parent knows when it is over
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl failed")


if __name__ == "__main__":
    main()
