"""The pytest plugin of the installed kit: rewritten asserts in its suites, and a real server as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from precipiq_testkit.postgres import PostgresDatabase, PostgresServer, any_postgres
from precipiq_testkit.server import ServerProcess, running_server

pytest.register_assert_rewrite("precipiq_testkit.entry_store_suite")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL: the one that ``PRECIPIQ_TEST_POSTGRES`` names, else one of our own."""
    with any_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresDatabase]:
    """A fresh, empty database; the secrets of its settings are in the environment."""
    with use_database(postgres_server.new_database(), monkeypatch) as database:
        yield database


@pytest.fixture(scope="module")
def shared_postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """The same, one for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch, use_database(postgres_server.new_database(), patch) as database:
        yield database


@contextmanager
def use_database(database: PostgresDatabase, patch: pytest.MonkeyPatch) -> Iterator[PostgresDatabase]:
    """That database with the secrets of its settings in the environment; gone afterwards."""
    for name, value in database.environment.items():
        patch.setenv(name, value)
    try:
        yield database
    finally:
        database.drop()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A fresh embedded deployment, serving on loopback; ``server.url``, ``server.key``, ``server.org_id``."""
    with running_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The same, one for all tests of a module: for tests that do not mind each other's entries."""
    with running_server(tmp_path_factory.mktemp("server")) as started:
        yield started
