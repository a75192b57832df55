"""Answers that send themselves: what core adds to them, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import InternalError, NotFound, PrecipiqError, Unavailable
from precipiq_core.http.answers import LateFailure, OwnAnswer, while_client_stays
from precipiq_core.http.endpoint import Call, Endpoint
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.envelope import Answer
from precipiq_core.http.router import build_router
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.http import http_limits
from tests.http_site import Answered, Keys, NoteOut, Site

pytestmark = pytest.mark.anyio


@dataclass
class Lines(OwnAnswer):
    """Two lines; may fail before, between or after them."""

    media_type: ClassVar[str] = "text/plain"

    error: Exception | None = None
    failing_after: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head = {"type": "http.response.start", "status": 206, "headers": [(b"content-type", b"text/plain")]}
        body = {"type": "http.response.body", "body": b"line\n", "more_body": True}
        for number, message in enumerate((head, body, body, {"type": "http.response.body", "body": b""})):
            if self.error is not None and number == self.failing_after:
                raise self.error
            await send(message)


class Headless(Lines):
    has_head: ClassVar[bool] = False


class Linked(Lines):
    key_in_query: ClassVar[bool] = True


def site_of(answer: object, output: Any = Lines) -> Site:
    site = Site()

    async def handler(call: Call[Any, Any]) -> object:
        return answer

    edge = Edge([Keys()], site.limiter, http_limits(1, 1, 1, 0.2), ManualClock())
    site.app = build_router([Contribution("notes", Endpoint("GET", "/x", handler, "read", output))], edge)
    return site


async def ask(answer: object, method: str = "GET", **headers: str) -> Answered:
    return await site_of(answer).ask(method, "/api/v1/x", **headers)


async def test_an_answer_sends_itself_and_core_adds_the_fields_of_the_limit() -> None:
    answer = await ask(Lines())

    assert (answer.status, answer.body, answer.pieces) == (206, b"line\nline\n", [b"line\n", b"line\n", b""])
    assert answer.headers == {
        "content-type": "text/plain",
        "ratelimit-policy": '"read";q=5;w=1',
        "ratelimit": '"read";r=4;t=1',
    }


async def test_a_whole_answer_and_a_response_of_starlettes_send_themselves_too() -> None:
    whole = await ask(Answer(418, b"{}"))
    starlettes = await ask(PlainTextResponse("text", 203))

    assert (whole.status, whole.body, whole.headers["content-length"]) == (418, b"{}", "2")
    assert (starlettes.status, starlettes.body) == (203, b"text")
    assert starlettes.headers["content-type"] == "text/plain; charset=utf-8"
    assert {"ratelimit"} <= whole.headers.keys() & starlettes.headers.keys()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(NotFound(), 404, "not_found"), (Unavailable("x"), 503, "unavailable"), (TimeoutError(), 503, "unavailable")],
)
async def test_what_it_raises_before_the_status_is_answered(error: Exception, status: int, code: str) -> None:
    answer = await ask(Lines(error))

    assert (answer.status, answer.error["code"], "ratelimit" in answer.headers) == (status, code, True)


@pytest.mark.parametrize("failing_after", [1, 2, 3])
@pytest.mark.parametrize("error", [NotFound(), InternalError(), TimeoutError()], ids=repr)
async def test_what_it_raises_after_the_status_breaks_it_off(error: Exception, failing_after: int) -> None:
    site = site_of(Lines(error, failing_after))

    with pytest.raises(LateFailure) as raised:
        await site.ask("GET", "/api/v1/x")
    assert raised.value.__cause__ is error
    assert site.answered.status == 206
    assert b"error" not in site.answered.body


async def test_what_nobody_foresaw_reaches_the_boundary_as_it_is() -> None:
    for error in (OSError("disk"), InternalError()):
        with pytest.raises(type(error)):
            await ask(Lines(error))
    gone = await ask(Lines(ClientDisconnect()))
    assert gone.status == 0


async def test_the_timeout_of_handlers_ends_where_the_answer_begins() -> None:
    class Slow(Lines):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.4)
            await super().__call__(scope, receive, send)

    assert (await ask(Slow())).status == 206


@pytest.mark.parametrize(("output", "allowed"), [(Headless, "GET"), (Lines, "GET, HEAD"), (NoteOut, "GET, HEAD")])
async def test_the_type_of_the_answer_says_whether_there_is_a_head(output: Any, allowed: str) -> None:
    site = site_of(Lines(), output)

    assert (await site.ask("DELETE", "/api/v1/x")).headers["allow"] == allowed
    assert ((await site.ask("HEAD", "/api/v1/x")).status == 405) == (allowed == "GET")


@pytest.mark.parametrize(("output", "status"), [(Linked, 206), (Lines, 401)])
async def test_the_type_of_the_answer_says_whether_a_key_in_the_query_counts(output: Any, status: int) -> None:
    site = site_of(Lines(), output)
    asked: list[Any] = []
    inner = site.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["precipiq.query_credential"], scope["precipiq.credential"] = scope["precipiq.credential"], None
        asked.append(scope)
        await inner(scope, receive, send)

    site.app = app
    assert (await site.ask("GET", "/api/v1/x")).status == status
    assert len(asked) == 1


async def test_a_block_is_cut_off_when_the_client_leaves_and_lets_go_of_what_it_holds() -> None:
    left = asyncio.Event()
    released: list[str] = []

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async with while_client_stays(receive) as leaving:
        asyncio.get_running_loop().call_soon(left.set)
        try:
            await asyncio.Event().wait()
        finally:
            released.append("all")
    assert (leaving.expired(), released) == (True, ["all"])
    with pytest.raises(PrecipiqError):
        async with while_client_stays(asyncio.Event().wait):  # type: ignore[arg-type]
            raise NotFound
