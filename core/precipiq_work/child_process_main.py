"""The other side of ``child_process``: takes a servant, then serves calls over its standard streams until they close.

Imports little, so that it starts within about 50 ms.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from precipiq_contracts.errors import InternalError, PrecipiqError

LENGTH_BYTES = 4
RESULT, ERROR, FAULT, ASKED, TOLD = "result", "error", "fault", "asked", "told"
"""Kinds of message to the parent. A fault is a traceback; the last two hold a callback's name and arguments."""

TELLS_FAULTS = "--tells-faults"

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


class _Parent:
    """The process that started this one, at the other end of the standard streams."""

    def __init__(self) -> None:
        # Any other code that writes to standard output then writes to standard error.
        self._incoming, self._outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """End the process with its parent, even during a call."""
        while (message := _read(self._incoming)) is not None:
            self._messages.put(message)
        os._exit(0)

    def hear(self) -> Any:
        return pickle.loads(self._messages.get())  # noqa: S301  (from the process that started this one)

    def tell(self, kind: str, value: object) -> None:
        self._outgoing.write(frame(pickle.dumps((kind, value))))
        self._outgoing.flush()

    def callback(self, name: str, is_asked: bool) -> Callable[..., Any]:
        """A proxy for a function of the parent."""

        def call(*arguments: object) -> Any:
            self.tell(ASKED if is_asked else TOLD, (name, arguments))
            return self.hear() if is_asked else None

        return call


def main() -> None:
    """Answer the servant with None, then each call with what it returns, or with the error that it raises."""
    tells_faults = TELLS_FAULTS in sys.argv
    parent = _Parent()
    servant: object = None

    def take() -> None:
        nonlocal servant
        _isolate()
        servant = parent.hear()

    def call() -> object:
        method, arguments, callbacks = parent.hear()
        proxies = {name: parent.callback(name, is_asked) for name, is_asked in callbacks.items()}
        return getattr(servant, method)(*arguments, **proxies)

    _answer(parent, take, tells_faults)
    while True:
        _answer(parent, call, tells_faults)


def frame(message: bytes) -> bytes:
    """The bytes of a message in a pipe: its length, then the message."""
    return len(message).to_bytes(LENGTH_BYTES) + message


def _answer(parent: _Parent, work: Callable[[], object], tells_faults: bool) -> None:
    """Send the result or the error of that work to the parent."""
    try:
        parent.tell(RESULT, work())
    except PrecipiqError as error:
        parent.tell(ERROR, _portable(error))
    except Exception as error:  # noqa: BLE001  (a traceback on standard error would not be a line of the server's log)
        if tells_faults:
            import traceback

            parent.tell(FAULT, traceback.format_exc())
        else:  # its text may hold a secret: only its type is sent
            parent.tell(ERROR, InternalError(f"{type(error).__name__} in a process that holds secrets"))


def _portable(error: PrecipiqError) -> PrecipiqError:
    """The error; its message alone, where another process could not make it from its pickled form."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (made here)
        return error if type(copy) is type(error) else InternalError(error.message)
    except Exception:  # noqa: BLE001  (a plugin's own errors may fail in any way)
        return InternalError(error.message)


def _read(stream: BinaryIO) -> bytes | None:
    """The next message; None when the other side has closed the pipe."""
    head = stream.read(LENGTH_BYTES)
    size = int.from_bytes(head)
    message = stream.read(size)
    return message if len(head) == LENGTH_BYTES and len(message) == size else None


def _isolate() -> None:
    """Forbid core dumps and tracing by the same user, and end with the parent. Raises ``OSError``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal signals the whole group; the parent ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl failed")


if __name__ == "__main__":
    main()
