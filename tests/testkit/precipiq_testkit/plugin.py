"""What pytest loads when the kit is installed: rewritten asserts in its suites, and a real server as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from precipiq_testkit.server import ServerProcess, running_server

pytest.register_assert_rewrite("precipiq_testkit.entry_store_suite")


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
