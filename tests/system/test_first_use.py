"""The first start: what it prints works as printed, and the key is shown that once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from precipiq_testkit.server import ServerProcess, bound_socket, running_server

from .client import Client
from .sdk_environment import sdk_python
from .stored import places_with

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def on_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on a port that the deployment names, as a self-hoster's does: the printed lines hold it."""
    with closing(bound_socket()) as held:
        overrides = {"PRECIPIQ__SERVER__BIND": f"127.0.0.1:{held.getsockname()[1]}"}
        with running_server(tmp_path_factory.mktemp("server"), overrides=overrides) as server:
            yield server


def printed_block(text: str, first: str, last: str) -> str:
    """The lines from the one that begins with ``first`` to the one that contains ``last``, without their indent."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"  {first}"))
    end = next(index for index in range(start, len(lines)) if last in lines[index])
    return "\n".join(line[2:] for line in lines[start : end + 1])


def test_the_printed_curl_line_records_a_decision(on_port: ServerProcess) -> None:
    command = printed_block(on_port.log_text(), "curl", "}}'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)["data"]
    assert Client(on_port).data("GET", f"/decisions/{receipt['decision_id']}")["agent_id"] == "pricing-bot"


def test_the_printed_sdk_example_records_a_decision(on_port: ServerProcess, tmp_path: Path) -> None:
    code = printed_block(on_port.log_text(), "from precipiq", "print(receipt")
    done = subprocess.run([sdk_python(), "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    decision_id, digest = done.stdout.split()
    assert Client(on_port).data("GET", f"/decisions/{decision_id}")["hash"] == digest


def test_the_key_is_in_one_private_file_and_stored_nowhere_else(server: ServerProcess) -> None:
    assert server.key
    assert str(server.data_dir) in server.log_text()
    assert not [line for line in server.log_lines() if server.key in json.dumps(line)], "the key is no log line"
    Client(server).decide()
    assert server.stop() == 0
    assert places_with(server, server.org_id), "the control: what is stored is found"
    assert places_with(server, server.key) == [str(server.data_dir / "first.key")]
    server.start()
    assert "pq_test_" not in server.log_text()
    assert Client(server).verify()["verdict"] == "checkpointed"


def test_the_master_key_is_for_its_owner_alone(on_port: ServerProcess) -> None:
    assert (on_port.data_dir / "master.key").stat().st_mode & 0o077 == 0
