"""An application of one file that can be downloaded, through every layer; the file remembers what was asked of it."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from precipiq_contracts.auth import Authenticator, Principal, RateLimiter, RateState
from precipiq_contracts.chain import Chain
from precipiq_contracts.credential import Credential
from precipiq_contracts.services import Services
from precipiq_core.app import Application
from precipiq_core.boot import assemble
from precipiq_core.deployment import parse_deployment
from precipiq_core.discovery import installed_plugins
from precipiq_core.http.endpoint import Call, Endpoint
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_exports.download import Download, Times
from precipiq_logs.scrub import Scrubber
from precipiq_logs.sink import Sink

SIZE = 300_000
TAG = '"0123abcd"'
BLOCK = random.Random(5).randbytes(1 << 20)


def content(start: int, end: int) -> bytes:
    """The bytes of every file of these tests."""
    first = start % len(BLOCK)
    return (BLOCK * (1 + (first + end - start) // len(BLOCK)))[first : first + end - start]


class File:
    """What is downloaded; remembers what was asked of it. ``failing_at``: the byte where reading fails or hangs.

    ``refused_at``: no further slice may be sent once so many bytes were read.
    """

    def __init__(self, size_bytes: int = SIZE, *, piece_bytes: int = 100_000, surplus_bytes: int = 0) -> None:
        self.size_bytes = size_bytes
        self.piece_bytes = piece_bytes
        self.surplus_bytes = surplus_bytes
        self.failing_at: int | None = None
        self.failure: Exception | None = None
        self.refusal: Exception | None = None
        self.refused_at: int | None = None
        self.begun: list[int] = []
        self.ended: list[tuple[int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self.read_bytes = 0
        self.closed = 0

    def download(self, http: HttpSettings) -> Download:
        times = Times(http.handler_timeout_s, http.download_stall_timeout_s)
        return Download(
            self.size_bytes, self.read, 'a "b"\r\n€.zip', TAG.strip('"'), times, self.begin, self.end, self.may_go_on
        )

    async def end(self, start: int, sent_bytes: int) -> None:
        self.ended.append((start, sent_bytes))

    async def may_go_on(self) -> bool:
        return self.refused_at is None or self.read_bytes < self.refused_at

    async def begin(self, start: int, end: int) -> None:
        self.begun.append(start)
        if self.refusal is not None:
            raise self.refusal

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        self.reads.append((start, end))
        end += self.surplus_bytes
        try:
            while start < end:
                if self.failing_at is not None and start >= self.failing_at:
                    if self.failure is None:
                        await asyncio.Event().wait()
                    raise self.failure
                piece = content(start, min(start + self.piece_bytes, end))
                self.read_bytes += len(piece)
                yield piece
                start += len(piece)
        finally:
            self.closed += 1


class Keys:
    async def authenticate(self, credential: Credential) -> Principal | None:
        return Principal(Chain("o", "test"), "key", frozenset({"read"}))


class Limiter:
    async def hit(self, chain: Chain, group: str) -> RateState:
        return RateState(group, 5, 1, 4, 1, 0.0)


class Files(PluginBase[Any]):
    name = "files"
    provides: ClassVar[tuple[type, ...]] = (RateLimiter,)
    file: ClassVar[File]

    @hookimpl
    def provide(self, services: Services) -> None:
        services.provide(RateLimiter, Limiter())

    @hookimpl
    def authenticators(self, services: Services) -> Sequence[Authenticator]:
        return [Keys()]

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        self._http = services.get(HttpSettings)
        return [Endpoint("GET", "/file", self.get, "read", Download)]

    async def get(self, call: Call[Any, Any]) -> Download:
        """Download the file."""
        return self.file.download(self._http)


def site(folder: Path, file: File, access: io.BytesIO | None = None, **http: float) -> Application:
    """An application with every layer, over that one file."""
    plugin = type("Files", (Files,), {"file": file})
    point = SimpleNamespace(name="files", group="precipiq", value="files:Files", dist=None, load=lambda: plugin)
    document = {"deployment": {"name": "t"}, "plugins": {"files": {}}, "http": http}
    assembly = assemble(
        parse_deployment(document, folder / "precipiq.toml", {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=None,  # type: ignore[arg-type]
        serving=True,
        installed=[point, *(each for each in installed_plugins() if each.name == "operations")],  # type: ignore[list-item]
    )
    return Application(assembly, access and Sink(access, Scrubber(), SystemClock(), 4096))
