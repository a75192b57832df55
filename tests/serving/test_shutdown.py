"""SIGTERM under load, with open WebSockets and with idle clients; starts that fail. Every supported Python."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from fcntl import LOCK_EX, flock
from functools import cache
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
CLIENTS = 20
WAIT_S = 30


@cache
def environment(version: str) -> str:
    """The interpreter of an environment for that Python: this one, or one with what core and the server need."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    wanted = locked(needs("precipiq-hypercorn", version))
    return environment_with(wanted, installed(version), ROOT / f".venv-core-{version}")


def installed(version: str) -> str:
    """That Python on this machine."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = sorted(str(path) for path in versions.glob(f"{version}.*/bin/python3"))
    for candidate in filter(None, (shutil.which(f"python{version}"), *found)):
        asked = subprocess.run([candidate, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
        if asked.stdout.startswith(version + "."):
            return candidate
    pytest.skip(f"there is no Python {version} on this machine")


def environment_with(wanted: str, python: str, folder: Path) -> str:
    """The interpreter of an environment in that folder, made once; runs of the suite beside this one wait for it."""
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        made = folder / "requirements.lock"
        if not made.exists() or made.read_text() != python + wanted:
            subprocess.run([python, "-m", "venv", "--clear", "--without-pip", folder], check=True)
            requirements = folder / "wanted.lock"
            requirements.write_text(wanted)
            pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
            options = ["--no-deps", "--no-compile", "--require-hashes", "--disable-pip-version-check"]
            done = subprocess.run(
                [*pip, *options, "-r", str(requirements)], capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, done.stderr[-2000:]
            made.write_text(python + wanted)
    return str(folder / "bin/python")


def needs(distribution: str, version: str) -> set[str]:
    """Normalised names of what that distribution needs under that Python, and what those need."""
    known: set[Requirement] = set()
    waiting = [Requirement(distribution)]
    while waiting:
        requirement = waiting.pop()
        environments = [{"extra": extra, "python_version": version} for extra in ("", *requirement.extras)]
        for needed in map(Requirement, requires(requirement.name) or []):
            if needed not in known and (needed.marker is None or any(map(needed.marker.evaluate, environments))):
                known.add(needed)
                waiting.append(needed)
    names = {canonicalize_name(needed.name) for needed in known}
    return {name for name in names if not name.startswith("precipiq-")}


def locked(names: set[str]) -> str:
    """Their part of the lock."""
    pinned = re.findall(r"^[\w.\[\]-]+==.*\n(?:    .*\n)*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    chosen = {name: pin for pin in pinned if (name := canonicalize_name(re.split(r"[=\[]", pin)[0])) in names}
    assert chosen.keys() == names
    return "".join(chosen.values())


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    return environment(request.param)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=WAIT_S)
    return process.returncode, output


def run_to_the_end(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).with_name("served_app.py")), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_S)


async def wait_for_line(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        while line := await asyncio.to_thread(process.stdout.readline):
            if line.startswith(wanted):
                return
    raise AssertionError(f"the server ended without saying {wanted!r}")


async def test_sigterm_under_load_answers_every_accepted_request(start_server, python: str) -> None:
    process, port = await asyncio.to_thread(start_server, "fine", python=python)
    answered: set[str] = set()
    refused: list[bytes] = []
    under_load = asyncio.Event()

    async def client(number: int) -> None:
        """Keeps a connection busy until the server refuses or closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for count in range(10_000):
                name = f"{number}-{count}"
                writer.write(f"POST /job/{name} HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    refused.append(head)
                    return
                fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:-2])
                answered.add((await reader.readexactly(int(fields["content-length"]))).decode())
                if len(answered) > 5 * CLIENTS:
                    under_load.set()
                if fields.get("connection") == "close":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(client(number))
        await under_load.wait()
        process.send_signal(signal.SIGTERM)
    code, output = await asyncio.to_thread(end, process)
    assert code == 0, output
    accepted = next(line for line in output.splitlines() if line.startswith("accepted "))
    assert set(json.loads(accepted.removeprefix("accepted "))) - answered == set()
    assert all(head.startswith(b"HTTP/1.1 503") and b"connection: close" in head for head in refused)


async def open_websocket(port: int, path: str) -> tuple[WSConnection, asyncio.StreamReader, asyncio.StreamWriter]:
    connection = WSConnection(ConnectionType.CLIENT)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connection.send(Request(host="test", target=path)))
    while True:
        connection.receive_data(await reader.read(65536))
        for event in connection.events():
            assert isinstance(event, AcceptConnection)
            return connection, reader, writer


async def close_code(connection: WSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    while data := await reader.read(65536):
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, CloseConnection):
                writer.write(connection.send(event.response()))
                return int(event.code)
    raise AssertionError("the connection ended without a close frame")


@pytest.mark.parametrize(("path", "code"), [("/socket", 1012), ("/own-goodbye", 4503)])
async def test_sigterm_closes_websockets_with_a_code_that_means_come_back(start_server, python, path, code) -> None:
    process, port = await asyncio.to_thread(start_server, "fine", python=python)
    async with asyncio.timeout(WAIT_S):
        websocket = await open_websocket(port, path)
        await wait_for_line(process, "connected")
        process.send_signal(signal.SIGTERM)
        assert await close_code(*websocket) == code
    websocket[2].close()
    exit_code, output = await asyncio.to_thread(end, process)
    assert exit_code == 0, output
    assert "Traceback" not in output


async def test_sigterm_ends_in_spite_of_clients_that_do_nothing(start_server, python: str) -> None:
    """A WebSocket that never answers the close, a body that never comes, half a head, an idle connection."""
    process, port = await asyncio.to_thread(start_server, "fine", python=python, drain_timeout_s="1")
    async with asyncio.timeout(WAIT_S):
        _, _, websocket = await open_websocket(port, "/socket")
        await wait_for_line(process, "connected")
        writers = [websocket]
        for sent in (
            b"POST /job/x HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nhalf",
            b"GET /job/y HTTP/1.1\r\nho",
            b"",
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writers.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n")
        writers.append(writer)
        await wait_for_line(process, "hanging")
        process.send_signal(signal.SIGTERM)
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")
    code, output = await asyncio.to_thread(end, process)
    for writer in writers:
        writer.close()
    assert code == 0, output
    assert "accepted" in output


async def test_a_second_signal_ends_at_once(start_server) -> None:
    process, port = await asyncio.to_thread(start_server, "fine", drain_timeout_s="3600")
    async with asyncio.timeout(WAIT_S):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n")
        await wait_for_line(process, "hanging")
        process.send_signal(signal.SIGTERM)
        await wait_for_line(process, "")
        process.send_signal(signal.SIGTERM)
    code, _ = await asyncio.to_thread(end, process)
    writer.close()
    assert code not in (0, 2)


@pytest.mark.parametrize(
    ("scenario", "said"),
    [("start-refused", ["ledger: no disk", "keys: no master key"]), ("start-crashes", ["boom at start"])],
)
async def test_a_start_that_fails_says_why_and_exits_non_zero(scenario, said) -> None:
    ended = await asyncio.to_thread(run_to_the_end, scenario)
    assert ended.returncode > 0
    assert "ready http" not in ended.stdout
    assert [text for text in said if text not in ended.stdout] == []


async def test_a_stop_that_fails_exits_non_zero(start_server) -> None:
    process, _ = await asyncio.to_thread(start_server, "stop-crashes")
    process.send_signal(signal.SIGTERM)
    code, output = await asyncio.to_thread(end, process)
    assert code not in (0, 2)
    assert "boom at stop" in output


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await asyncio.to_thread(run_to_the_end, "fine", f"bind={address}")
    assert ended.returncode == 2
    lines = [line for line in ended.stdout.splitlines() if line.strip()]
    assert len(lines) == 1
    assert address in lines[0]
    assert "Address already in use" in lines[0]
