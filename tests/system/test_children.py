"""Processes that the server starts hold nothing of it that would be in the way when it is killed and starts again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from precipiq_testkit.open_files import open_files
from precipiq_testkit.server import ServerProcess

from .client import Client


def listening_socket(port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            return f"socket:[{fields[9]}]"
    raise AssertionError("nobody listens")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_child_inherits_the_listening_socket(server: ServerProcess) -> None:
    client = Client(server)
    client.decide()
    listening = listening_socket(int(server.url.rpartition(":")[2]))
    assert listening in open_files(server.process.pid)
    export_id = client.data("POST", "/exports", json={})["id"]
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while client.data("GET", f"/exports/{export_id}")["status"] != "completed" and time.monotonic() < deadline:
        command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(server.process.pid)]
        for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
            pid, _, arguments = line.strip().partition(" ")
            if " serve" not in arguments:  # else it is about to become one
                assert listening not in open_files(int(pid)), arguments
                seen.add(arguments)
    assert any("child_process" in name for name in seen)
