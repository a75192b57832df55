"""Routes of Starlette's beside endpoints: what they answer, who comes first, and which paths fail the boot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError, NotFound
from precipiq_core.app import Application
from precipiq_core.collect import HookCall
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.http.endpoint import Endpoint
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.router import build_router
from precipiq_core.http.websocket import WebSocketEndpoint
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.http import http_limits
from tests.http_site import PAGES, NoteOut, NoteQuery, Site

pytestmark = pytest.mark.anyio

EDGE = Edge([], None, http_limits(1, 1, 1, 1), ManualClock())


async def told(request: Request) -> Response:
    """What a route sees of a request."""
    return JSONResponse([request.method, request.path_params, request.scope["root_path"], request.url.path])


async def refuse(request: Request) -> Response:
    status = int(request.path_params["status"])
    if status == 404:
        raise NotFound
    raise HTTPException(status, "so it is", {"x-own": "1"})


class Both(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()


async def open_nothing(call: Any) -> None:
    """Open nothing."""


def site_of(*routes: Any) -> Site:
    site = Site()
    brought = [Contribution("brought", route) for route in routes]
    site.app = ErrorBoundary(build_router([*brought, *site.routes], EDGE))
    return site


async def test_a_route_answers_beside_the_endpoints_and_needs_no_key() -> None:
    site = site_of(Route("/own/{name}/{number:int}", told))
    answer = await site.ask("GET", "/own/ada/7?x=1&x=2", key=None)

    assert (answer.status, json.loads(answer.body)) == (
        200,
        ["GET", {"name": "ada", "number": 7}, "", "/own/ada/7"],
    )
    assert site.scope["precipiq.route"] == "/own/{name}/{number}"
    assert (await site.ask("GET", "/own/ada/seven", key=None)).error["code"] == "not_found"


async def test_routes_of_one_path_share_it_by_their_methods() -> None:
    site = site_of(Route("/own", told, methods=["POST", "PUT"]), Route("/own", told), Route("/both", Both))
    answers = {method: await site.ask(method, "/own", key=None) for method in ("GET", "HEAD", "POST", "PUT", "DELETE")}

    assert [answer.status for answer in answers.values()] == [200, 200, 200, 200, 405]
    assert answers["DELETE"].headers["allow"] == "GET, HEAD, POST, PUT"
    assert answers["DELETE"].error["code"] == "method_not_allowed"
    assert [(await site.ask(method, "/both", key=None)).status for method in ("GET", "POST")] == [200, 405]


async def test_an_endpoint_and_a_route_share_a_path_too() -> None:
    site = site_of(Route("/api/v1/notes", told, methods=["DELETE"]), Route("/page", told, methods=["POST"]))

    assert (await site.ask("DELETE", "/api/v1/notes", key=None)).status == 200
    assert (await site.ask("PATCH", "/api/v1/notes")).headers["allow"] == "DELETE, GET, HEAD, POST"
    assert (await site.ask("GET", "/page", key=None)).body == b"/page"


async def test_what_a_route_refuses_has_the_documented_shape() -> None:
    site = site_of(Route("/own/{status}", refuse), Mount("/deep", routes=[Route("/{status}", refuse)]))
    for path in ("/own", "/deep"):
        gone, teapot, broken, ours = [await site.ask("GET", f"{path}/{status}") for status in (410, 418, 599, 404)]
        assert (gone.status, gone.error, gone.headers["x-own"]) == (410, {"code": "gone", "message": "so it is"}, "1")
        assert (teapot.status, teapot.error["code"]) == (418, "bad_request")
        assert (broken.status, broken.error["code"]) == (599, "internal_error")
        assert (ours.status, ours.error) == (404, {"code": "not_found", "message": "not found"})


async def test_what_is_mounted_sees_its_own_root_and_the_layers_around_it_do_not() -> None:
    site = site_of(Mount("/deep", routes=[Route("/x", told)]))
    answer = await site.ask("GET", "/deep/x", key=None)

    assert json.loads(answer.body) == ["GET", {}, "/deep", "/deep/x"]
    assert (site.scope["precipiq.route"], site.scope["root_path"]) == ("/deep/{path}", "")
    assert (await site.ask("GET", "/deep/y", key=None)).body == b"Not Found"
    for path in ("/deep", "/deeper/x"):
        assert (await site.ask("GET", path, key=None)).error["code"] == "not_found"


async def test_a_mount_at_the_root_gets_what_nobody_claims() -> None:
    site = site_of(Mount("/", routes=[Route("/page", refuse), Route("/", told), Route("/own", told)]))

    assert (await site.ask("GET", "/page", key=None)).body == b"/page"
    assert [(await site.ask("GET", path, key=None)).status for path in ("/", "/own", "/none")] == [200, 200, 404]


async def test_a_websocket_of_starlettes_is_found_and_asks_plain_requests_to_upgrade() -> None:
    site = site_of(WebSocketRoute("/talk/{room}", talk), Mount("/deep", routes=[WebSocketRoute("/talk", talk)]))

    async def connect(path: str) -> list[str]:
        sent: list[str] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await site.app({"type": "websocket", "path": path, "root_path": "", "headers": []}, receive, send)
        return sent

    assert [await connect(path) for path in ("/talk/a", "/deep/talk")] == [["websocket.accept"]] * 2
    assert [await connect(path) for path in ("/talk", "/deep/none")] == [["websocket.close"]] * 2


CLASHES: list[tuple[Sequence[Any], str]] = [
    ([Route("/page", told)], "GET /page is claimed by both core and other"),
    ([Route("/page", Both)], "ANY /page is claimed by both core and other"),
    ([Route("/.well-known/{id}/keys", told)], "GET /.well-known/{id}/keys is claimed by both core and other"),
    (
        [Route("/.well-known/{id}/keys", told, methods=["POST"])],
        "/.well-known/{id}/keys of other is the path /.well-known/{org_id}/keys with other names",
    ),
    ([Route("/a", told), Route("/a", told, methods=["GET"])], "GET /a is claimed by both other and other"),
    ([WebSocketRoute("/page", talk)], "GET /page is claimed by both core and other"),
    (
        [Mount("/.well-known", routes=[])],
        "/.well-known/{org_id}/keys of core is below /.well-known/, which other mounted",
    ),
    ([Mount("/a", routes=[]), Mount("/a", routes=[])], "everything under /a/ is claimed by both other and other"),
    (
        [WebSocketEndpoint("/talk/{a}", open_nothing, "read", NoteQuery, print)],
        "other: the path of a WebSocket takes no parameters: /talk/{a}",
    ),
]


@pytest.mark.parametrize(("routes", "problem"), CLASHES, ids=[problem for _, problem in CLASHES])
def test_a_clash_of_paths_fails_the_boot_with_one_sentence(routes: Sequence[Any], problem: str) -> None:
    with pytest.raises(DeploymentError) as caught:
        build_router([*PAGES, *(Contribution("other", route) for route in routes)], EDGE)
    assert caught.value.problems == (problem,)


def test_what_a_plugin_mounts_may_hold_paths_of_its_own_and_no_mount_of_others() -> None:
    mine = [Mount("/a", routes=[]), Route("/a/b", told), Route("/ab", told), Mount("", routes=[])]
    build_router([Contribution("one", route) for route in mine], EDGE)
    with pytest.raises(DeploymentError, match="/a/b of one is below /a/, which two mounted"):
        build_router([Contribution("one", Mount("/a/b", routes=[])), Contribution("two", Mount("/a", routes=[]))], EDGE)


class Site1(PluginBase[Any]):
    name = "site1"

    @hookimpl
    def routes(self) -> Sequence[BaseRoute | Endpoint]:
        return [Route("/own", told), Mount("/files", routes=[])]


class Site2(Site1):
    name = "site2"


def test_plugins_that_claim_one_path_do_not_boot_together(boot: Any) -> None:
    Application(boot(Site1))
    with pytest.raises(DeploymentError) as caught:
        Application(boot(Site1, Site2))
    assert caught.value.problems == (
        "GET /own is claimed by both site1 and site2",
        "everything under /files/ is claimed by both site1 and site2",
    )


def test_reports_name_them() -> None:
    endpoint = Endpoint("GET", "/x", open_nothing, "read", NoteOut)
    routes = [endpoint, Route("/a", told), Mount("/b", routes=[]), WebSocketRoute("/c", talk)]
    assert HookCall("site", "routes", routes).names == ["GET /x", "Route /a", "Mount /b", "WebSocketRoute /c"]
