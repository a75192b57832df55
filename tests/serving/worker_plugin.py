"""A plugin for servers with several workers: leaves traces of what it is asked, counts, and refuses when it is told to.

Each process finds it through the folder that ``test_workers.py`` makes; it is installed nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from precipiq_contracts.deployment import Console, DeploymentInfo
from precipiq_contracts.errors import DeploymentError
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl


class WorkerConfig(PluginConfig):
    """``starts_max``: later starts are refused."""

    starts_max: int = 1_000


class OwnCollector:
    """What the shared files cannot hold."""

    def collect(self) -> Iterable[Metric]:
        metric = Metric("own", "of a plugin's own", "gauge")
        metric.add_sample("own", {}, os.getpid())
        return [metric]


class WorkerPlugin(PluginBase[WorkerConfig]):
    name = "working"
    Config = WorkerConfig

    @hookimpl(optionalhook=True)
    def entry_store_drivers(self, services) -> Sequence[object]:
        return [SimpleNamespace(name="alone", capabilities=frozenset(), open=None)]

    @hookimpl
    def routes(self, services) -> Sequence[Route]:
        registry = services.get(CollectorRegistry)
        self._folder = services.get(DeploymentInfo).data_dir
        self._counter = Counter("working_bytes", "what was worked", unit="bytes", registry=registry)
        self._gauge = Gauge("working_now", "works", registry=registry)
        self._sum = Gauge("working_workers", "workers", registry=registry, multiprocess_mode="livesum")
        registry.register(OwnCollector())
        return [Route("/job/{name}", self._work)]

    async def _work(self, request: Request) -> PlainTextResponse:
        name = request.path_params["name"]
        leave_trace(self._folder / "accepted", name)
        self._counter.inc()
        await asyncio.sleep(3600 if name == "hang" else 0.05)
        return PlainTextResponse(name)

    @hookimpl
    def lifespan(self, services) -> AbstractAsyncContextManager[object]:
        return self._run(services.get(Console))

    @asynccontextmanager
    async def _run(self, console: Console) -> AsyncIterator[None]:
        self._folder.mkdir(exist_ok=True)
        starts = leave_trace(self._folder / "starts", str(os.getpid()))
        if starts > self.config.starts_max:
            raise DeploymentError([f"working: start {starts} is one too many"])
        if starts == 1:
            console.say("hello, operator")
        print("printed by the plugin")
        logging.getLogger("somebody").warning("logged by a library")
        self._gauge.set(1)
        self._sum.inc()
        yield
        leave_trace(self._folder / "ends", str(os.getpid()))


def leave_trace(path: Path, text: str) -> int:
    """Add a line to a file that several processes write; how many it has."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.encode() + b"\n")
    finally:
        os.close(descriptor)
    return path.read_text().count("\n")
