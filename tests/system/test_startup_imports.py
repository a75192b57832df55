"""What a start may import. Each name here costs every command, cron job and server its time: a new one is a decision.

The lists are upper bounds: what is installed beside the server (``rich`` for structlog) may be missing from a process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_testkit.server import ServerProcess, running_server

COMMANDS = {"click"}
SETTINGS = {"annotated_types", "pluggy", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
LOGS = {"structlog", "rich", "pygments", "attr", "attrs", "colorama", "better_exceptions", "greenlet"}
PARTS = {"aiosqlite", "cffi", "cryptography", "iso4217", "msgspec", "orjson", "prometheus_client"}
SERVING = {
    *(
        "anyio",
        "h11",
        "h2",
        "hpack",
        "hyperframe",
        "hypercorn",
        "priority",
        "sniffio",
        "starlette",
        "cython_runtime",
        "uvloop",
        "wsproto",
    ),
}

# Notes itself where it is told when it ends; standard output stays the command's own.
NOTING = """
import atexit, json, pathlib, sys
notes = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: notes.write_text(json.dumps([*sys.modules])))
from precipiq_core.cli.main import main
main()
"""


class Started:
    """The modules that a process had imported when it ended."""

    def __init__(self, notes: Path) -> None:
        names = {name for name in json.loads(notes.read_text()) if not name.startswith("_")}
        self.ours = {name for name in names if name.startswith("precipiq_")}
        tops = {name.partition(".")[0] for name in names - self.ours}
        self.third_parties = tops - sys.stdlib_module_names - {"sitecustomize", "usercustomize"}
        self.all = names

    def ours_like(self, pattern: str) -> set[str]:
        return {name for name in self.ours if re.fullmatch(pattern, name)}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An embedded deployment that was started once, and is stopped."""
    with running_server(tmp_path_factory.mktemp("embedded")) as server:
        server.stop()
        yield server


def command(deployment: ServerProcess, *arguments: str) -> Started:
    notes = deployment.folder / "modules.json"
    options = ("-c", NOTING, str(notes), *arguments)
    environment = {**os.environ, "PRECIPIQ_CONFIG": str(deployment.config)}
    subprocess.run([sys.executable, *options], env=environment, capture_output=True, timeout=60, check=True)
    return Started(notes)


def test_help_imports_no_plugin_and_no_settings(deployment: ServerProcess) -> None:
    started = command(deployment, "--help")

    assert started.third_parties <= COMMANDS
    core = r"precipiq_core(\.(cli(\.\w+)?|deployment_file))?|precipiq_contracts(\.(contribution|errors))?"
    plugins = r"precipiq_(?!core|contracts|chain)\w+(\.command_index)?"
    assert started.ours - started.ours_like(f"{core}|{plugins}") == set()


def test_a_command_imports_what_it_does_and_nothing_that_answers_requests(deployment: ServerProcess) -> None:
    started = command(deployment, "keys", "create", "--org", deployment.org_id, "--env", "test")

    assert started.third_parties - {"starlette"} <= COMMANDS | SETTINGS | LOGS | PARTS
    assert {name for name in started.all if name.startswith("starlette.")} <= {"starlette.types"}
    assert started.ours_like(r".*\.(\w*routes|models|app|router|openapi|postgres\w*|alembic_scripts|verify)") <= {
        "precipiq_chain.verify"
    }
    commands = started.ours_like(r"precipiq_(?!core)\w+\..*commands")
    assert commands == {"precipiq_auth_keys.commands"}
    assert "unittest" not in started.all


def test_a_server_that_has_served_nothing_has_imported_what_serving_needs(deployment: ServerProcess) -> None:
    notes = deployment.folder / "served.json"
    environment = {**os.environ, "PRECIPIQ_CONFIG": str(deployment.config)}
    with subprocess.Popen(
        [sys.executable, "-c", NOTING, str(notes), "serve"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if '"event":"serving"' in line.replace(" ", ""):
                server.terminate()
    assert server.returncode == 0, "".join(lines)
    started = Started(notes)

    assert started.third_parties <= COMMANDS | SETTINGS | LOGS | PARTS | SERVING
    assert (
        started.ours_like(
            r".*\.(postgres\w*|alembic_scripts|databases_library|redis_link|redis_counter|workers|supervisor)"
        )
        == set()
    )
    assert "unittest" not in started.all
