"""A plugin that brings a whole Starlette application with static files: every layer of core around it, no key."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from structlog.testing import capture_logs

from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.services import Services
from precipiq_core.app import Application
from precipiq_core.boot import assemble
from precipiq_core.deployment import parse_deployment
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_logs.scrub import Scrubber
from precipiq_logs.sink import Sink

pytestmark = pytest.mark.anyio


async def greet(request: Request) -> Response:
    body = f"{request.path_params['name']} {request.headers.get('x-precipiq-key')} {request.url.query}"
    return HTMLResponse(body, headers={"content-security-policy": "default-src 'self'"})


async def fail(request: Request) -> Response:
    raise RuntimeError("with a secret")


class Brought(PluginBase[Any]):
    name = "brought"

    @hookimpl
    def routes(self, services: Services) -> Sequence[BaseRoute]:
        files = StaticFiles(directory=services.get(DeploymentInfo).data_dir)
        app = Starlette(routes=[Route("/hello/{name}", greet), Route("/fail", fail), Mount("/files", files)])
        return [Mount("/site", app), Mount("/assets", files), Route("/fail", fail)]


@pytest.fixture
async def asked(served: Any, tmp_path: Path) -> AsyncIterator[tuple[httpx2.AsyncClient, io.BytesIO]]:
    """A client of the served application, and what its access log wrote."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "style.css").write_text("body {}")
    point = SimpleNamespace(name="brought", group="precipiq", value="b:B", dist=None, load=lambda: Brought)
    document = {"deployment": {"name": "t"}, "plugins": {"brought": {}}}
    assembly = assemble(
        parse_deployment(document, tmp_path / "precipiq.toml", {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=None,  # type: ignore[arg-type]
        serving=True,
        installed=[point],  # type: ignore[list-item]
    )
    access = io.BytesIO()
    app = Application(assembly, Sink(access, Scrubber(), SystemClock(), 4096))
    async with served(app) as server, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client, access


def routes_of(access: io.BytesIO) -> list[tuple[str, str, int]]:
    lines = [json.loads(line) for line in access.getvalue().splitlines()]
    return [(line["route"], line["path"], line["status"]) for line in lines]


async def test_its_pages_have_the_layers_of_core_and_no_key_reaches_them(asked: Any) -> None:
    client, access = asked
    page = await client.get("/site/hello/ada?api_key=k1&x=1", headers={"x-precipiq-key": "k2"})

    assert (page.status_code, page.text) == (200, "ada None x=1")
    assert page.headers["content-security-policy"] == "default-src 'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-request-id"].startswith("req_")
    assert "ratelimit" not in page.headers
    assert (await client.get("/site/hello/ada", headers={f"x-{n}": "v" for n in range(500)})).status_code == 431
    assert routes_of(access) == [("/site/{path}", "/site/hello/ada", 200), ("", "/site/hello/ada", 431)]


async def test_its_static_files_are_served_and_what_is_missing_is_documented_or_its_own(asked: Any) -> None:
    client, access = asked
    for path in ("/site/files/style.css", "/assets/style.css"):
        file = await client.get(path)
        again = await client.get(path, headers={"if-none-match": file.headers["etag"]})
        head = await client.head(path)
        assert (file.status_code, file.text, file.headers["content-type"]) == (
            200,
            "body {}",
            "text/css; charset=utf-8",
        )
        assert (again.status_code, head.status_code, head.headers["content-length"]) == (304, 200, "7")
    missing, outside, posted = [
        await client.request(method, f"/assets/{path}")
        for method, path in (("GET", "none.css"), ("GET", "..%2f..%2fetc/passwd"), ("POST", "style.css"))
    ]
    assert [answer.status_code for answer in (missing, outside, posted)] == [404, 404, 405]
    assert [answer.json()["error"]["code"] for answer in (missing, posted)] == ["not_found", "method_not_allowed"]
    assert (await client.get("/site/none")).text == "Not Found"
    assert ("/assets/{path}", "/assets/none.css", 404) in routes_of(access)


async def test_what_it_raises_by_mistake_is_one_line_of_the_log_and_tells_nothing(asked: Any) -> None:
    client, access = asked
    with capture_logs() as lines:
        ours, its = await client.get("/fail"), await client.get("/site/fail")

    assert (ours.status_code, ours.json()["error"]["code"]) == (500, "internal_error")
    assert (its.status_code, its.text) == (500, "Internal Server Error")
    failures = [line for line in lines if line["event"] == "request failed"]
    assert [line["error"] for line in failures] == ["RuntimeError", "RuntimeError"]
    assert [entry[2] for entry in routes_of(access)] == [500, 500]
