"""Whether a process can serve: each part is asked, side by side, and none for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.registries import Routes
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.router import build_router
from precipiq_operations import service
from precipiq_operations.routes import Pages
from precipiq_operations.service import Readiness
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.http import http_limits

pytestmark = pytest.mark.anyio

Ping = Callable[[], Awaitable[None]]


async def well() -> None:
    pass


async def away() -> None:
    raise Unavailable("the disk is full")


async def broken() -> None:
    raise KeyError("nobody foresaw this")


async def stuck() -> None:
    await asyncio.Event().wait()


async def ask(path: str, **parts: Ping) -> tuple[int, dict[str, str], bytes]:
    registry = CollectorRegistry()
    Counter("cups", "cups that were drunk", registry=registry).inc(3)
    routes = Routes()
    pages = Pages(Readiness(lambda: parts), registry, routes)
    routes.contributions = [Contribution("operations", page) for page in pages.endpoints()]
    edge = Edge([], None, http_limits(1, 1, 1, 10), ManualClock())
    app = build_router(routes.contributions, edge)
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"name=x", "headers": []}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({**scope, "precipiq.request_id": "req_1"}, well, send)  # type: ignore[arg-type]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


async def test_a_process_is_ready_when_each_part_is() -> None:
    status, _, body = await ask("/readyz", one=well, two=well)

    assert (status, json.loads(body)) == (200, {"status": "ready", "parts": {"one": "ok", "two": "ok"}})


@pytest.mark.parametrize("failing", [away, broken, stuck])
async def test_one_part_that_cannot_serve_is_named(failing: Ping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PING_TIMEOUT_S", 0.05)
    async with asyncio.timeout(10):
        status, _, body = await ask("/readyz", one=well, two=failing)

    assert (status, json.loads(body)) == (503, {"status": "not ready", "parts": {"one": "ok", "two": "failed"}})


async def test_a_process_is_alive_whatever_its_parts_say() -> None:
    assert (await ask("/healthz", one=broken))[0] == 200


async def test_metrics_are_open_metrics_text() -> None:
    status, headers, body = await ask("/metrics")

    assert (status, headers["content-type"].partition(";")[0]) == (200, "application/openmetrics-text")
    assert b"cups_total 3.0" in body


async def test_the_interface_describes_every_route_and_its_page_loads_nothing_from_elsewhere() -> None:
    _, _, document = await ask("/openapi.json")
    status, headers, page = await ask("/docs")

    assert set(json.loads(document)["paths"]) == {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"/readyz" in page
