"""What every test shares: asyncio is the only backend, and what is served is served from both databases."""

from __future__ import annotations

import compileall
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client
from tests.system.organisations import organisations


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile once what hundreds of processes import: with PYTHONDONTWRITEBYTECODE, each would compile it anew."""
    if not hasattr(session.config, "workerinput"):
        for folder in ("core", "plugins", "tests/testkit"):
            compileall.compile_dir(Path(__file__).parents[1] / folder, quiet=2)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def database(request: pytest.FixtureRequest) -> str:
    """Which database a test's servers use."""
    return str(request.param)


@pytest.fixture
def server_database(database: str, request: pytest.FixtureRequest) -> PostgresDatabase | None:
    """A fresh PostgreSQL database, or None for a file of SQLite."""
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
    postgres = None if database == "sqlite" else request.getfixturevalue("shared_postgres")
    with running_server(tmp_path_factory.mktemp("server"), postgres=postgres) as started:
        yield started


@pytest.fixture(scope="module")
def spare_keys(shared_server: ServerProcess) -> list[str]:
    """Keys of organisations that have nothing yet, for ``fresh_client``."""
    return [key for _, key in organisations(shared_server, 30)]


@pytest.fixture
def fresh_client(shared_server: ServerProcess, spare_keys: list[str]) -> Client:
    """A client of an organisation of its own, so that tests on one server do not mind each other."""
    return Client(shared_server, spare_keys.pop())
