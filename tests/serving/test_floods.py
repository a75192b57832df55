"""Whatever a client without a key sends, the others are served meanwhile, and all is as before when it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from precipiq_testkit.server import ServerProcess, running_server
from tests.serving.floods import HTTP1, HTTP2, Attack, Attacker, Felt, Watcher

pytestmark = [pytest.mark.system]

ATTACK_S = 0.5
STALL_S = 2.0
"""An idle machine is a hundred times better. What these attacks did without the limits: seconds to minutes."""

MEMORY_MAX_MB = 300
HEALTH, TENANT = "/healthz", "/api/v1/ledger/head"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    overrides = {
        "PRECIPIQ__SERVER__H2C": "true",
        "PRECIPIQ__SERVER__KEEP_ALIVE_TIMEOUT_S": "4",
        "PRECIPIQ__SERVER__TCP_USER_TIMEOUT_S": "1",
        "PRECIPIQ__SERVER__CLOSE_TIMEOUT_S": "1",
        "PRECIPIQ__HTTP__BODY_TIMEOUT_S": "1",
    }
    with running_server(tmp_path_factory.mktemp("server"), overrides=overrides) as server:
        yield server
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) / 1024 < MEMORY_MAX_MB
        faults = [line for line in server.log_lines() if line.get("level") in ("error", "critical")]
        assert {line["logger"] for line in faults} <= {"precipiq.access"}, "nothing but answers with 503"
        assert server.stop() == 0


def port_of(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])


def watcher(server: ServerProcess) -> Watcher:
    return Watcher(port_of(server), {HEALTH: {}, TENANT: {"X-Precipiq-Key": server.key}})


def attacked(server: ServerProcess, attack: Attack, seconds: float = ATTACK_S) -> tuple[Felt, Attacker]:
    """What others feel while that attack goes on."""
    with watcher(server).watching() as felt, Attacker(port_of(server), attack).running() as attacker:
        threading.Event().wait(seconds)
    return felt, attacker


@pytest.mark.parametrize("attack", [*HTTP2.values(), *HTTP1.values()], ids=[*HTTP2, *HTTP1])
def test_the_others_are_served_during(target: ServerProcess, attack: Attack) -> None:
    felt, _ = attacked(target, attack)
    assert max(felt.worst_s(HEALTH), felt.worst_s(TENANT)) < STALL_S


def test_a_server_that_stands_still_is_seen(target: ServerProcess) -> None:
    """The control: what the tests above would say of an attack that works."""
    with watcher(target).watching() as felt:
        threading.Event().wait(0.2)
        os.kill(target.process.pid, signal.SIGSTOP)
        threading.Event().wait(STALL_S + 0.2)
        os.kill(target.process.pid, signal.SIGCONT)
    assert max(felt.worst_s(HEALTH), felt.worst_s(TENANT)) > STALL_S


@pytest.mark.parametrize("name", ["ping", "settings", "rapid reset", "empty continuations", "packed fields"])
def test_a_flood_of_frames_ends_its_connection_and_is_told_once(target: ServerProcess, name: str) -> None:
    with Attacker(port_of(target), HTTP2[name]).running() as attacker:
        deadline_s = time.monotonic() + 60
        while not attacker.ended:
            assert time.monotonic() < deadline_s
            threading.Event().wait(0.1)
    told = [line for line in target.log_lines() if line.get("event") == "a limit keeps clients out"]
    assert len(told) == len({line["limit"] for line in told}), "once a minute and limit"


def test_a_body_that_never_comes_is_given_up(target: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", port_of(target)), timeout=20) as client:
        client.sendall(HTTP1["bodies that never come"].opening)
        assert client.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_all_is_as_before_when_it_ends(target: ServerProcess) -> None:
    """Connections, requests and descriptors of all attacks are gone."""
    pid = target.process.pid
    pause = threading.Event()
    for _ in range(200):
        left = sum("socket" in link for link in _links(pid))
        if left <= 8:
            break
        pause.wait(0.1)
    assert left <= 8
    with watcher(target).watching() as felt:
        pause.wait(0.3)
    assert len(felt.durations_s[TENANT]) > 3


def _links(pid: int) -> list[str]:
    links = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
        except OSError:
            continue
    return links
