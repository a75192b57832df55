"""Servers for these tests: in this event loop, or as a process of their own that can be given signals."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import ASGIApp

from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.drain import DrainGate
from precipiq_hypercorn.serving import serve
from precipiq_peers.unread_body import UnreadBody

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = (ROOT / "core", ROOT / "plugins" / "hypercorn")


@dataclass
class Served:
    """A server that runs in this event loop."""

    port: int
    gate: DrainGate
    stop: asyncio.Event
    task: asyncio.Task[None]


@dataclass
class Certificate:
    """The files of a certificate that signs itself, for 127.0.0.1."""

    certificate_file: Path
    key_file: Path


ServedFactory = Callable[..., AbstractAsyncContextManager[Served]]
ProcessFactory = Callable[..., "tuple[subprocess.Popen[str], int]"]


@asynccontextmanager
async def _served(app: ASGIApp, *, cure: bool = True, **settings: object) -> AsyncIterator[Served]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    gate = DrainGate(app)
    config = HypercornConfig.model_validate({"bind": "127.0.0.1:0", "drain_timeout_s": 0.5, "h2c": True, **settings})
    task = asyncio.create_task(
        serve(
            UnreadBody(gate) if cure else gate,
            config,
            lifespan=nullcontext(),
            gate=gate,
            on_ready=lambda addresses: ready.set_result(addresses[0]),
            stop=stop,
        )
    )
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED, timeout=10)
    if task.done():
        await task
    port = urlsplit(ready.result()).port
    assert port
    await _open_a_stream()
    try:
        yield Served(port, gate, stop, task)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


async def _open_a_stream() -> None:
    """The first one of a uvloop opens a file that stays: tests that count files count from there."""
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await asyncio.open_connection(sock=ours)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def served() -> ServedFactory:
    """``async with served(app, trusted_proxies=[...]) as server``: cured, on a free port, drained at the end."""
    return _served


@pytest.fixture
def start_server() -> Iterator[ProcessFactory]:
    """``start_server(scenario, python=..., **settings)``: `served_app.py` in a process, and its port once ready."""
    started: list[subprocess.Popen[str]] = []

    def start(scenario: str, *, python: str = sys.executable, **settings: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [python, str(HERE / "served_app.py"), scenario, *(f"{key}={value}" for key, value in settings.items())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(map(str, PACKAGES))},
        )
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                return process, urlsplit(line.split()[1]).port or 0
        return process, 0

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("other-tls"))


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "certificate.pem", folder / "key.pem")
    files.certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    files.key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
