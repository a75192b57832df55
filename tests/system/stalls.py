"""How long a server's event loop stands still: a process of its own asks for ``/healthz`` all the time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from precipiq_testkit.server import ServerProcess

_ASK = """
import socket, sys, time
host, _, port = sys.argv[1].removeprefix("http://").rpartition(":")
with socket.create_connection((host, int(port)), timeout=60) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
        answer = b""
        while b"}" not in answer:
            piece = connection.recv(65536)
            if not piece:
                sys.exit("the server closed the connection")
            answer += piece
        print(began, time.monotonic() - began, flush=True)
        time.sleep(0.004)
"""


class Watch:
    """Waits of a client of ``/healthz``: each with the time at which it began, by ``time.monotonic``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._waits: list[tuple[float, float]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def longest_s(self, since: float) -> float:
        """The longest wait of a request that was under way at ``since`` or began later; until now."""
        now = time.monotonic()
        with self._changed:  # a request that begins from now on tells of all the time before
            assert self._changed.wait_for(lambda: bool(self._waits) and self._waits[-1][0] > now, 60), "no answer"
            return max(wait for began, wait in self._waits if began + wait >= since)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            began, wait = map(float, line.split())
            with self._changed:
                self._waits.append((began, wait))
                self._changed.notify_all()


@contextmanager
def watch(server: ServerProcess) -> Iterator[Watch]:
    """Watch the server's loop while the context is entered."""
    command = [sys.executable, "-c", _ASK, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Watch(process)
        finally:
            process.kill()
