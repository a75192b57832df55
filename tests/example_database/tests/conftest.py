"""The database as a stranger installs it, and servers over it in the place of those over the databases that we ship."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from precipiq_testkit.server import DEPLOYMENT, ServerProcess, running_server

DISTRIBUTION = Path(__file__).parents[1]
sys.path.insert(0, str(DISTRIBUTION))  # for tests of its parts: it is not part of the project's environment

_SQLITE = "sqlite:///precipiq.db"
_OTHERS = "\n[plugins.billing]\n\n[plugins.outcomes]\n"
assert _SQLITE in DEPLOYMENT
assert DEPLOYMENT.endswith(_OTHERS)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with the distribution in it, entry points included."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    options = ["--disable-pip-version-check", "--target", folder]
    subprocess.run([*install, *options, DISTRIBUTION], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def over_a_folder(site: Path) -> Mapping[str, Any]:
    """What makes a server one over the database, with ledger, auth_keys, ws_stream, vault_local and exports."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    deployment = DEPLOYMENT.removesuffix(_OTHERS).replace(_SQLITE, "folder:///store")
    return {"deployment": deployment, "overrides": {"PYTHONPATH": path}}


@pytest.fixture
def server(over_a_folder: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A fresh deployment, serving on loopback."""
    with running_server(tmp_path_factory.mktemp("server"), **over_a_folder) as started:
        yield started


@pytest.fixture(scope="module")
def shared_server(
    over_a_folder: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The same, one for all tests of a module."""
    with running_server(tmp_path_factory.mktemp("server"), **over_a_folder) as started:
        yield started
