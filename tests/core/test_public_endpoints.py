"""Endpoints without a scope: nobody is asked for a key, and the rest is as for all others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import InternalError, RateLimited
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.http.endpoint import Call, Endpoint, PublicCall, RawBody
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.router import build_router
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.http import http_limits
from tests.http_site import KEYS_PAGE, Answered, Keys, NoteIn, NoteOut, NoteQuery, Site

pytestmark = pytest.mark.anyio

SIGNED = RawBody(20, {"signed": "what it was signed with"})


class OneVisit:
    """Admits one request; hears of those that were refused."""

    def __init__(self) -> None:
        self.visits = 0
        self.heard: list[str] = []

    async def admit(self, address: str | None) -> None:
        self.visits += 1
        if self.visits > 1:
            raise RateLimited(retry_after_s=7)

    def note_refusal(self, code: str, address: str | None) -> None:
        self.heard.append(code)


class Public(Site):
    """One endpoint without a scope at ``/api/v1/open``; ``seen``: what its handler got."""

    def __init__(
        self, method: Any = "POST", *, hangs: bool = False, error: Exception | None = None, **more: Any
    ) -> None:
        super().__init__()
        self.seen: list[PublicCall[Any, Any]] = []
        self._hangs, self._error = hangs, error
        edge = Edge([Keys()], self.limiter, http_limits(100, 0.2, 8, 0.2), ManualClock())
        endpoint = Endpoint(method, "/open", self.answer, None, NoteOut, **more)
        self.app = ErrorBoundary(build_router([Contribution("notes", endpoint)], edge))

    async def answer(self, call: PublicCall[Any, Any]) -> object:
        self.seen.append(call)
        if self._error is not None:
            raise self._error
        await asyncio.sleep(60 if self._hangs else 0)
        return {"text": "x"}

    async def open(self, body: Any = b"", key: str | None = None, path: str = "", **headers: str) -> Answered:
        return await self.ask("POST", f"/api/v1/open{path}", body, key, **headers)


async def test_no_key_is_asked_for_and_none_is_looked_at_or_counted() -> None:
    site = Public()
    answers = [await site.open(key=key) for key in (None, "unknown", "writer")]

    assert [(answer.status, json.loads(answer.body)["data"]) for answer in answers] == [(200, {"text": "x"})] * 3
    assert json.loads(answers[0].body)["meta"]["request_id"] == "req_1"
    assert site.limiter.hits == []
    assert not any("ratelimit" in answer.headers for answer in answers)
    assert [(call.principal, call.peer.credential_id) for call in site.seen] == [(None, b"")] * 3
    assert await site.seen[2].peer.recheck() is None
    assert not any(isinstance(call, Call) for call in site.seen)


async def test_body_and_query_are_parsed_and_refused_as_for_others() -> None:
    site = Public(body=NoteIn, query=NoteQuery)
    wrong = [
        await site.open({"text": ""}),
        await site.open({"text": "a"}, path="?limit=0"),
        await site.open({"text": "a"}, content_type="text/plain"),
        await site.open({"text": "a" * 200}),
        await site.open([b"{", None]),
        await site.open({"text": "a"}, idempotency_key="\t"),
    ]
    fine = await site.open({"text": "a"}, path="?limit=5", idempotency_key="k")

    assert [answer.status for answer in wrong] == [422, 422, 415, 413, 408, 422]
    assert (fine.status, len(site.seen)) == (200, 1)
    [call] = site.seen
    assert (call.body.text, call.query.limit, call.idempotency_key) == ("a", 5, "k")


async def test_a_raw_body_comes_as_it_is_with_its_own_bound_and_its_headers() -> None:
    site = Public(body=SIGNED)
    fine = await site.open(b"\xff not json", content_type="text/plain", signed="s", idempotency_key="\t")
    large = [await site.open(b"x" * 21, declare=declare) for declare in (True, False)]
    packed = await site.open(b"{}", content_encoding="gzip")

    assert (fine.status, [answer.status for answer in large], packed.status) == (200, [413, 413], 415)
    [call] = site.seen
    assert (call.body, call.idempotency_key) == (b"\xff not json", None)
    assert (call.header_values("signed"), call.header_values("none")) == (["s"], [])


async def test_parameters_are_refused_where_none_are_taken_and_ignored_where_any_is() -> None:
    assert (await Public().open(path="?x=1")).status == 422
    page = await Site().ask("GET", "/page?x=1&x=2&%ff", key=None)

    assert (page.status, page.body, page.headers["content-type"]) == (200, b"/page", "text/plain")


async def test_a_public_handler_has_the_timeout_and_the_errors_of_all() -> None:
    late = await Public(hangs=True).open()
    broken = [await Public(error=error).open() for error in (RuntimeError("secret"), InternalError())]

    assert (late.status, late.error["code"]) == (503, "unavailable")
    assert [(answer.status, answer.error["code"]) for answer in broken] == [(500, "internal_error")] * 2
    assert b"secret" not in broken[0].body


async def test_admission_by_address_stands_before_a_public_endpoint_too() -> None:
    door = OneVisit()
    site = Public(admission=door, body=NoteIn)
    first, second = await site.open({"text": "a"}), await site.open(b"{")

    assert (first.status, second.status, second.headers["retry-after"]) == (200, 429, "7")
    assert (door.heard, len(site.seen)) == (["rate_limited"], 1)


async def test_a_public_path_may_have_parameters_and_its_handler_may_tell_the_log_who_it_was() -> None:
    site = Site()
    found = await site.ask("GET", "/.well-known/org_1/keys", key=None)
    told = site.scope["precipiq.principal_ids"]
    head = await site.ask("HEAD", "/.well-known/org_1/keys", key=None)
    missing = await site.ask("GET", "/.well-known/nobody/keys", key=None)
    refused = await site.ask("POST", "/.well-known/org_1/keys", key=None)

    assert (found.status, json.loads(found.body)["data"]) == (200, {"text": KEYS_PAGE.path, "principal": None})
    assert told == ("org_1", "nobody's")
    assert (head.status, head.headers) == (200, found.headers)
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/.well-known//keys", "/.well-known/a/b/keys"):
        assert (await site.ask("GET", path, key=None)).status == 404
