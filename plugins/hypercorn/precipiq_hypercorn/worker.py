"""A worker as it sees itself: the socket that all workers share, and the channel to the parent that started it.

The channel carries one byte in each direction: ``READY`` to the parent, ``STOP`` to the worker. Its end means that the
parent has ended, and stops the worker as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from precipiq_contracts.errors import DeploymentError

READY = b"r"
STOP = b"s"


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker's place, passed on its command line. ``listening``, ``channel``: inherited descriptors."""

    number: int
    listening: int
    channel: int

    def __str__(self) -> str:
        return f"{self.number}:{self.listening}:{self.channel}"

    @classmethod
    def parse(cls, text: str) -> Seat:
        """The reverse of ``str``. Raises ``DeploymentError``."""
        try:
            number, listening, channel = map(int, text.split(":"))
        except ValueError as error:
            raise DeploymentError(["--worker: is for workers that `serve --workers` starts"]) from error
        return cls(number, listening, channel)


class Worker:
    """This process as a worker. ``orphaned``: the parent ended without ``STOP``.

    SIGTERM and SIGINT stop it, and a second one changes nothing: service managers signal parent and workers alike, at
    any time, and the signal must not kill a worker that is stopping already. Only the parent kills.
    """

    def __init__(self, seat: Seat) -> None:
        self.number = seat.number
        self.orphaned = False
        self.listening = _inherit_socket(seat.listening)
        self._channel = _inherit_socket(seat.channel)
        self._channel.setblocking(False)
        self._stop: Callable[[], object] | None = None
        self._was_signalled = False
        # Not the event loop's own handlers: those end with it, a little before the process does.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def report_ready(self) -> None:
        """Send ``READY`` to the parent."""
        with suppress(OSError):  # the parent has ended: the end of the channel shows it
            self._channel.send(READY)

    def stop_with_parent(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """Set ``stop`` at ``STOP`` of the parent, when the parent ends, and at SIGTERM and SIGINT."""
        self._stop = partial(loop.call_soon_threadsafe, stop.set)
        if self._was_signalled:
            stop.set()
        loop.add_reader(self._channel.fileno(), self._on_message, loop, stop)

    def leave(self) -> None:
        """Ignore signals from now on: the process ends, and a late signal must not change its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, *_: object) -> None:
        self._was_signalled = True
        if self._stop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._stop()

    def _on_message(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        try:
            message = self._channel.recv(1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        self.orphaned = not message
        loop.remove_reader(self._channel.fileno())
        stop.set()


def _inherit_socket(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise DeploymentError([f"--worker: descriptor {descriptor} is no socket: {error.strerror}"]) from error
