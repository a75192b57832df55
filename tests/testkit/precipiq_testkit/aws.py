"""AWS on loopback: moto's server in a process of its own, KMS and S3 in memory, on a port that the kernel chose.

Nothing but loopback is contacted: the credentials are made up, and no metadata service is asked for others.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

REGION = "eu-central-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "NO_PROXY": "127.0.0.1",
}

# It ends when its standard input does, so it cannot outlive the tests.
_SERVER = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class AwsServer:
    """``url``: the endpoint of every service."""

    url: str
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """A client of boto3, to prepare a test's objects and to look at its results."""
        from boto3.session import Session

        if service not in self._clients:
            self._clients[service] = Session().client(service, region_name=REGION, endpoint_url=self.url)
        return self._clients[service]


@contextmanager
def running_aws() -> Iterator[AwsServer]:
    """A started server that is gone afterwards; meanwhile the environment has credentials for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        command = [sys.executable, "-c", _SERVER]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "moto's server did not start: are moto and flask installed?"
            try:
                yield AwsServer(f"http://127.0.0.1:{int(port)}")
            finally:
                process.stdin.close()
                process.wait(_STOP_TIMEOUT_S)


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    """A server that the tests of a module share. Import it, or name it in a conftest."""
    with running_aws() as server:
        yield server
