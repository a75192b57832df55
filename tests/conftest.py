"""What every test shares: asyncio is the only backend, what is served is served from both databases, in parallel."""

from __future__ import annotations

import compileall
import functools
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from copy import copy
from pathlib import Path

import httpcore2
import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from precipiq_testkit.plugin import use_database
from precipiq_testkit.postgres import PostgresDatabase, PostgresServer
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client
from tests.system.organisations import organisations

# A machine that is busy draws examples slowly: that is no fault of the test.
settings.register_profile("precipiq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("precipiq")

# With PYTHONDONTWRITEBYTECODE each worker would compile every test anew, which takes half of its collection.
sys.dont_write_bytecode = False

# Each client would read the certificates of all authorities anew, which takes longer than most requests.
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)

# A traceback that nobody looks at would be coloured: a second for each.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

WORKERS_PER_CORE = 2
"""Half of a test's time is waiting."""
SYSTEM_FIXTURES = {"server", "shared_server", "served", "start_server", "postgres_server", "redis_server", "redis_url"}
"""What asks for one of these starts a server."""
STARTERS = {"ServerProcess", "running_server", "OwnPostgres", "own_postgres", "RedisProcess", "running_redis"}
"""A module that has one of these starts servers by itself."""


class ByFileAndDatabase(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of one file over one database go to one worker, since they share servers."""

    def _split_scope(self, nodeid: str) -> str:
        database = next((name for name in ("sqlite", "postgres") if f"[{name}" in nodeid), "")
        return nodeid.partition("::")[0] + database


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return ByFileAndDatabase(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # macOS has no affinities.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return WORKERS_PER_CORE * cores


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile once what hundreds of processes import: with PYTHONDONTWRITEBYTECODE, each would compile it anew."""
    if not hasattr(session.config, "workerinput"):
        for folder in ("core", "plugins", "tests/testkit"):
            compileall.compile_dir(Path(__file__).parents[1] / folder, quiet=2)
    gc.disable()  # collecting makes a million objects that all stay: looking for garbage among them is half of its time


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a server; files that take long come first, so that no worker is left alone with one."""
    for item in items:
        asked, had = getattr(item, "fixturenames", ()), vars(getattr(item, "module", item))
        if SYSTEM_FIXTURES.intersection(asked) or STARTERS.intersection(had):
            item.add_marker(pytest.mark.system)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that runs in this process takes its logging over for good; the next test must not see that."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.system)], scope="module")
def database(request: pytest.FixtureRequest) -> str:
    """Which database a test's servers use."""
    return str(request.param)


@pytest.fixture(scope="session")
def migrated_postgres(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresDatabase]:
    """A database with the schema of all plugins and no rows, to be copied."""
    database = postgres_server.new_database()
    ServerProcess(tmp_path_factory.mktemp("migrated"), postgres=database).run_warm("migrate")
    yield database
    database.drop()


@pytest.fixture
def server_database(
    database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresDatabase | None]:
    """A fresh PostgreSQL database with the schema of all plugins, or None for a file of SQLite."""
    if database == "sqlite":
        yield None
        return
    migrated: PostgresDatabase = request.getfixturevalue("migrated_postgres")
    with use_database(migrated.copy(), monkeypatch) as copied:
        yield copied


@pytest.fixture
def migrated_database(
    migrated_postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresDatabase]:
    """A fresh PostgreSQL database with the schema of all plugins, whatever the other fixtures' database is."""
    with use_database(migrated_postgres.copy(), monkeypatch) as copied:
        yield copied


@pytest.fixture
def empty_database(database: str, request: pytest.FixtureRequest) -> PostgresDatabase | None:
    """A PostgreSQL database without anything, or None for a file of SQLite: for schemas that a test makes up."""
    return None if database == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def server(
    server_database: PostgresDatabase | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A fresh deployment over each database in turn, serving on loopback."""
    with running_server(tmp_path_factory.mktemp("server"), postgres=server_database) as started:
        yield started


@pytest.fixture(scope="module")
def shared_server(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The same, one for all tests of a module: for tests that do not mind each other's entries."""
    with ExitStack() as stack:
        postgres = None
        if database == "postgres":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            migrated: PostgresDatabase = request.getfixturevalue("migrated_postgres")
            postgres = stack.enter_context(use_database(migrated.copy(), patch))
        yield stack.enter_context(running_server(tmp_path_factory.mktemp("server"), postgres=postgres))


@pytest.fixture(scope="module")
def spare_keys(shared_server: ServerProcess) -> list[str]:
    """Keys of organisations that have nothing yet, for ``fresh_client``."""
    return [key for _, key in organisations(shared_server, 30)]


@pytest.fixture
def tenant(shared_server: ServerProcess) -> ServerProcess:
    """The shared server as it is to an organisation of its own: for tests that count or spoil a chain's entries.

    Whoever stops the server does so with ``shared_server``, and starts it where it was.
    """
    seen = copy(shared_server)
    [(seen.org_id, seen.key)] = organisations(shared_server, 1)
    return seen


@pytest.fixture
def fresh_client(shared_server: ServerProcess, spare_keys: list[str]) -> Client:
    """A client of an organisation of its own, so that tests on one server do not mind each other."""
    return Client(shared_server, spare_keys.pop())
