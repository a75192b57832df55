"""A real server in a process of its own: ``precipiq serve`` over a fresh data folder, on a port the kernel chose."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.warm import run_warm

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0

_DEPLOYMENT = """
[deployment]
name = "test"
data_dir = "data"

[server]
bind = "127.0.0.1:0"

{database}
[secrets]
master_key = { file = "master.key" }
create_master_key = true

[plugins.ledger]

[plugins.auth_keys]
first_start_organisation = "test organisation"
writes_per_second_max = 1000000
batches_per_second_max = 1000000
reads_per_second_max = 1000000

[plugins.ws_stream]
handshakes_per_minute_max = 1000000

[plugins.vault_local]
master_key = { file = "vault.key" }
create_master_key = true

[plugins.exports]

[plugins.billing]

[plugins.outcomes]
"""

_SQLITE = """[database]
url = "sqlite:///precipiq.db"
migrate_at_start = true
"""

DEPLOYMENT = _DEPLOYMENT.replace("{database}", _SQLITE)

_KEY = re.compile(r"pq_(?:test|live)_[0-9A-Za-z]{49}")
_KEY_FILE = re.compile(r"^  key   in (.+)$", re.MULTILINE)
_ORGANISATION = re.compile(r"organisation (org_[0-9A-Za-z]+)")


class ServerProcess:
    """A deployment folder and the server over it. ``overrides``: ``PRECIPIQ__SECTION__KEY`` variables.

    ``postgres``: the database to use; without it, a file of SQLite. ``deployment``: the whole file, in its place.
    """

    def __init__(
        self,
        folder: Path,
        *,
        deployment: str | None = None,
        postgres: PostgresDatabase | None = None,
        overrides: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = folder / "precipiq.toml"
        self.postgres = postgres
        section = _SQLITE if postgres is None else postgres.toml()
        self.config.write_text(deployment or _DEPLOYMENT.replace("{database}", section))
        self.data_dir = folder / "data"
        self.log_file = folder / "server.log"
        self.url = ""
        self.key = ""
        self.org_id = ""
        self._python = python
        self._environment = {**os.environ, **(overrides or {}), "PRECIPIQ_CONFIG": str(self.config)}
        self._environment.pop("PRECIPIQ_DATA_DIR", None)
        if postgres is not None:
            self._environment |= postgres.environment
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._release_port: Callable[[], object] = lambda: None

    @property
    def database_file(self) -> Path:
        return self.data_dir / "precipiq.db"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    def sql(self, *statements: str) -> list[Any]:
        """Execute statements in the server's database as its administrator; rows of the last one."""
        if self.postgres is not None:
            return self.postgres.sql("SET search_path = precipiq", *statements)
        with closing(sqlite3.connect(self.database_file, isolation_level=None, timeout=20)) as connection:
            rows: list[Any] = []
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            return rows

    def start(self) -> ServerProcess:
        """Start and wait until it serves. Raises ``RuntimeError`` with the log when it does not."""
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "precipiq_core.cli", "serve"],
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            serving = next((line for line in self.log_lines() if line.get("event") == "serving"), None)
            if serving is not None:
                self.url = serving["addresses"][0]
                self._release_port()
                self._note_first_start()
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start:\n{self.log_text()}")

    def start_on(self, port: str) -> ServerProcess:
        """Start again on a port, so that clients find it where it was."""
        self._environment["PRECIPIQ__SERVER__BIND"] = f"127.0.0.1:{port}"
        return self.start()

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_TIMEOUT_S)
        self._hold_port()
        return code

    def kill(self) -> None:
        """SIGKILL: no warning, no clean-up."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        self._hold_port()

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a ``precipiq`` command over the same deployment."""
        return self._run(["-m", "precipiq_core.cli"], arguments, check)

    def python(self, script: str, *arguments: str) -> str:
        """Run Python code with this deployment as its configuration; returns its output."""
        return self._run(["-c", script], arguments, True).stdout

    def _run(self, what: list[str], arguments: Sequence[str], check: bool) -> subprocess.CompletedProcess[str]:
        command = [self._python, *what, *arguments]
        return subprocess.run(
            command, env=self._environment, cwd=self.folder, capture_output=True, text=True, timeout=120, check=check
        )

    def run_warm(self, *arguments: str, script: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """As ``run``, or ``python`` where there is a script, and cheaper: see :mod:`precipiq_testkit.warm`."""
        if self._python == sys.executable and self._environment.get("PYTHONPATH") == os.environ.get("PYTHONPATH"):
            return run_warm(arguments, self._environment, self.folder, script=script, check=check)
        return self._run(["-c", script] if script else ["-m", "precipiq_core.cli"], arguments, check)

    def create_key(self, environment: str = "test", *scopes: str, org_id: str | None = None) -> str:
        """A new key of that organisation (default: the first one)."""
        options = [option for scope in scopes for option in ("--scope", scope)]
        made = self.run_warm("keys", "create", "--org", org_id or self.org_id, "--env", environment, *options, "--json")
        return str(json.loads(made.stdout)["key"])

    def log_text(self) -> str:
        """The standard output and error of this start."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines among them."""
        return list(_json_lines(self.log_text().splitlines()))

    def _hold_port(self) -> None:
        """Keep the port for ``start_on``. It refuses connections; the kernel gives it to no other process meanwhile."""
        if not self.url:
            return
        with suppress(OSError):  # a child of the server that outlives it may still listen
            held = bound_socket(int(self.url.rpartition(":")[2]))
            self._release_port()
            self._release_port = weakref.finalize(self, held.close)

    def _note_first_start(self) -> None:
        deadline = time.monotonic() + 1.0
        while not self.key and "first start" in self.log_text().lower() and time.monotonic() < deadline:
            self._find_key()
        self._find_key()

    def _find_key(self) -> None:
        text = self.log_text()
        file, organisation = _KEY_FILE.search(text), _ORGANISATION.search(text)
        key = _KEY.search(text if file is None else Path(file.group(1)).read_text())  # older versions print it
        if key is not None and organisation is not None:
            self.key, self.org_id = key.group(), organisation.group(1)


def bound_socket(port: int = 0) -> socket.socket:
    """A socket that has the port and does not listen: only a server that gets this port may take it.

    Without ``port``: one that the kernel chooses. Raises ``OSError`` when another program listens there.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    return held


def _json_lines(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue


@contextmanager
def running_server(folder: Path, **options: Any) -> Iterator[ServerProcess]:
    """A started server that is gone afterwards, whatever happened."""
    server = ServerProcess(folder, **options).start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
