"""The HTTP edge in process: order of work, envelope, validation messages, body limits and router."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import Conflict, DeploymentError, NotFound, Unavailable, ValidationFailed
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.http.endpoint import Call, Endpoint, Reply
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.router import build_router
from precipiq_core.http.validation import RequestModel, parse_body
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.http import http_limits
from tests.http_site import PAGES, Keys, NoteOut, Site

pytestmark = pytest.mark.anyio


async def test_success_has_the_envelope_the_status_and_the_rate_fields() -> None:
    answer = await Site().ask("POST", "/api/v1/notes", {"text": "a"})

    assert answer.status == 201
    assert json.loads(answer.body) == {
        "data": {"text": "a"},
        "meta": {"request_id": "req_1", "timestamp": "2026-01-01T00:00:00.000000Z"},
    }
    assert answer.headers["ratelimit"] == '"write";r=4;t=1'
    assert answer.headers["content-length"] == str(len(answer.body))


async def test_authentication_comes_before_the_limit_and_the_limit_before_the_body() -> None:
    site = Site()
    refused = [await site.ask("POST", "/api/v1/notes", b"{", key) for key in (None, "unknown", "reader")]
    hits_before = list(site.limiter.hits)
    site.limiter.retry_after_s = 0.3
    limited = await site.ask("POST", "/api/v1/notes", b"{")

    assert [answer.status for answer in refused] == [401, 401, 403]
    assert refused[0].body == refused[1].body
    assert (hits_before, site.calls) == ([], [])
    assert (limited.status, limited.headers["retry-after"], "ratelimit" in limited.headers) == (429, "1", True)


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({}, {"text": ["is required"]}),
        ({"text": "", "x": 1}, {"text": ["must have at least 1 characters"], "x": ["unknown field"]}),
        ({"text": "abcdef"}, {"text": ["must have at most 5 characters"]}),
        ({"text": "a", "items": [{"confidence": 0}] * 3}, {"items": ["must have at most 2 items"]}),
        (b"[]", {"body": ["must be an object"]}),
    ],
)
async def test_validation_names_every_field_by_its_path(body: object, details: dict[str, list[str]]) -> None:
    site = Site()
    answer = await site.ask("POST", "/api/v1/notes", body)

    assert (answer.status, answer.error["code"], answer.error["details"]) == (422, "validation_error", details)
    assert site.calls == []


async def test_a_field_deep_in_a_list_has_a_dotted_path_and_its_value_is_not_echoed() -> None:
    answer = await Site().ask("POST", "/api/v1/notes", {"text": "a", "items": [{"confidence": 777}]})

    [(path, messages)] = answer.error["details"].items()
    assert path.startswith("items.0.confidence")
    assert messages == ["must be <= 1"]
    assert b"777" not in answer.body


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b'{"text": NaN}', b'{"a":1,"a":2}', b"\xff", b"[" * 9 + b"]" * 9])
async def test_what_is_no_strict_json_is_a_validation_error(body: bytes) -> None:
    answer = await Site().ask("POST", "/api/v1/notes", body)

    assert (answer.status, answer.error["code"]) == (422, "validation_error")


@pytest.mark.parametrize("declare", [True, False])
async def test_a_body_over_the_limit_is_refused_declared_or_not(declare: bool) -> None:
    site = Site()
    exact = await site.ask("POST", "/api/v1/notes", b'{"text":"a"}' + b" " * 88, declare=declare)
    over = await site.ask("POST", "/api/v1/notes", b'{"text":"a"}' + b" " * 89, declare=declare)
    pieces = await site.ask("POST", "/api/v1/notes", [b'{"text":"a"}', b" " * 50, b" " * 50, b""])

    assert (exact.status, over.status, pieces.status) == (201, 413, 413)
    assert over.error == {"code": "payload_too_large", "message": "the request body is larger than 100 bytes"}


@pytest.mark.parametrize("length", ["9" * 30, "-1", "1e3", "", "9" * 19])
async def test_a_length_that_is_absurd_is_too_large(length: str) -> None:
    assert (await Site().ask("POST", "/api/v1/notes", b"{}", content_length=length)).status == 413


async def test_a_body_in_pieces_is_put_together_and_one_that_stalls_times_out() -> None:
    whole = await Site().ask("POST", "/api/v1/notes", [b'{"te', b'xt":', b'"a"}'])
    stalled = await Site().ask("POST", "/api/v1/notes", [b'{"te', None])

    assert (whole.status, stalled.status, stalled.error["code"]) == (201, 408, "request_timeout")


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": ""},
        {"content_type": "application/json; charset=utf-16"},
        {"content_encoding": "gzip"},
        {"content_encoding": "br, gzip"},
    ],
)
async def test_other_media_types_and_compression_are_refused(headers: dict[str, str]) -> None:
    answer = await Site().ask("POST", "/api/v1/notes", b"{}", **headers)

    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_a_charset_of_utf_8_is_fine() -> None:
    for content_type in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        assert (await Site().ask("POST", "/api/v1/notes", {"text": "a"}, content_type=content_type)).status == 201


async def test_a_query_is_parsed_with_its_groups() -> None:
    site = Site()
    await site.ask("GET", "/api/v1/notes?limit=3&agent=a%20b+c&metadata.k=1&metadata.x.y=2")

    query = site.calls[0].query
    assert (query.limit, query.agent, query.metadata) == (3, "a b c", {"k": "1", "x.y": "2"})


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"), ("limit=x", "limit"), ("other=1", "other"), ("agent=a&agent=b", "agent"),
        ("metadata.k=1&metadata.k=2", "metadata.k"), ("metadata=1&metadata.k=2", "metadata.k"),
        ("&".join(["a=1"] * 65), None), ("agent=%FF", None), ("agent=" + "a" * 20_000, None),
    ],
)  # fmt: skip
async def test_a_wrong_query_is_refused(query: str, path: str | None) -> None:
    answer = await Site().ask("GET", f"/api/v1/notes?{query}")

    assert answer.status == 422
    assert path is None or list(answer.error["details"]) == [path]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "café"])
async def test_a_bad_idempotency_key_is_refused(key: str) -> None:
    answer = await Site().ask("POST", "/api/v1/notes", {"text": "a"}, idempotency_key=key)

    assert (answer.status, list(answer.error["details"])) == (422, ["Idempotency-Key"])


async def test_unknown_paths_methods_and_slashes_have_the_envelope_and_never_redirect() -> None:
    site = Site()
    for path in ("/", "/api/v1/none", "/api/v1/notes/", "/api/v1/notes/a/b", "//api/v1/notes"):
        answer = await site.ask("GET", path)
        assert (answer.status, answer.error["code"]) == (404, "not_found"), path
    answer = await site.ask("DELETE", "/api/v1/notes")
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert (await site.ask("GET", "/page")).body == b"/page"


async def test_path_parameters_reach_the_handler() -> None:
    site = Site()
    await site.ask("GET", "/api/v1/notes/n1")

    assert site.calls[0].path == {"id": "n1"}


class OwnConflict(Conflict):
    code = "own_conflict"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotFound(), 404, "not_found"),
        (OwnConflict("x" * 900), 409, "own_conflict"),
        (Unavailable(retry_after_s=2.1), 503, "unavailable"),
        (RuntimeError("with a secret"), 500, "internal_error"),
        (TimeoutError(), 503, "unavailable"),
    ],
)
async def test_what_a_handler_raises_becomes_the_documented_error(error: Exception, status: int, code: str) -> None:
    async def failing(call: Call[Any, Any]) -> object:
        raise error

    answer = await Site(failing).ask("POST", "/api/v1/notes", {"text": "a"})

    assert (answer.status, answer.error["code"]) == (status, code)
    assert b"secret" not in answer.body
    assert len(answer.body) < 512
    waits = {"2.1": "3", "1.0": "1"} if status == 503 else {}
    assert answer.headers.get("retry-after") == waits.get(str(getattr(error, "retry_after_s", 1.0)))


async def test_a_handler_that_hangs_is_given_up() -> None:
    answer = await Site(lambda call: asyncio.sleep(60)).ask("POST", "/api/v1/notes", {"text": "a"})

    assert (answer.status, answer.error["code"]) == (503, "unavailable")


async def test_a_reply_may_choose_its_status_and_headers() -> None:
    async def replying(call: Call[Any, Any]) -> object:
        return Reply({"text": "a"}, 200, ((b"idempotent-replayed", b"true"),))

    answer = await Site(replying).ask("POST", "/api/v1/notes", {"text": "a"})

    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")


def test_two_owners_of_one_path_and_method_fail_the_boot() -> None:
    edge = Edge([], None, http_limits(1, 1, 1, 1), ManualClock())
    endpoint = Endpoint("GET", "/page", Site().read, "read", NoteOut, absolute=True)

    with pytest.raises(DeploymentError, match="GET /page is claimed by both notes and core"):
        build_router([Contribution("notes", endpoint), *PAGES], edge)


@pytest.mark.parametrize(("path", "status"), [("/api/v1/numbers/5", 200), ("/api/v1/numbers/x", 404)])
async def test_a_path_may_have_a_parameter_that_is_no_text(path: str, status: int) -> None:
    site = Site()
    number = Endpoint("GET", "/numbers/{number:int}", site.read, "read", NoteOut, path_parameters={"number": "one"})
    edge = Edge([Keys()], None, http_limits(100, 0.2, 8, 0.5), ManualClock())
    site.app = ErrorBoundary(build_router([Contribution("notes", number)], edge))
    assert (await site.ask("GET", path)).status == status


def test_a_value_that_is_missing_in_a_fixed_list_is_named() -> None:
    class Pair(RequestModel):
        pair: tuple[int, int]

    with pytest.raises(ValidationFailed) as caught:
        parse_body(Pair, {"pair": [1]})
    assert list(caught.value.details or {}) == ["pair.1"]


@pytest.mark.parametrize(("method", "ends"), [("GET", True), ("POST", False)])
async def test_work_that_changes_nothing_ends_when_its_client_leaves(method: str, ends: bool) -> None:
    """A client that stays is the control: so is a POST, whose work goes on to its end."""
    ended: list[str] = []
    let_go = asyncio.Event()

    async def handler(call: Call[Any, Any]) -> object:
        try:
            await let_go.wait()
            ended.append("at its end")
        except asyncio.CancelledError:
            ended.append("with its client")
            raise
        return {"text": "x"}

    site = Site()
    await site.ask(method, "/api/v1/notes", {"text": "a"} if method == "POST" else b"")
    endpoint = Endpoint("GET", "/notes", handler, "read", NoteOut)
    if method == "POST":
        endpoint = Endpoint("POST", "/notes", handler, "write", NoteOut)
    edge = Edge([Keys()], site.limiter, http_limits(100, 0.2, 8, 30), ManualClock())
    app = build_router([Contribution("notes", endpoint)], edge)
    messages = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asking = asyncio.create_task(app(site.scope, receive, send))
    done, _ = await asyncio.wait([asking], timeout=5 if ends else 0.6)
    assert bool(done) is ends
    let_go.set()
    await asking
    assert (ended, bool(sent)) == (["with its client" if ends else "at its end"], not ends)
