"""Request ids, what is measured, and what a request leaves behind."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from precipiq_core.edge.request_log import RequestLog
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_logs.scrub import Scrubber
from precipiq_logs.sink import Sink
from tests.effort import some_of
from tests.logs.forms import FORMS

pytestmark = pytest.mark.anyio

_OURS = re.compile(r"req_[0-9a-f]{24}")


class Server:
    """A request log over an application that answers with one byte; keeps all that comes out."""

    def __init__(self, *, access: bool = True) -> None:
        self.stream = io.BytesIO()
        self.observed: list[tuple[str, str, int, float]] = []
        self.context: dict[str, Any] = {}
        self.log = RequestLog(
            self._app,
            clock=SystemClock(),
            randomness=SystemRandomness(),
            observe=lambda *observed: self.observed.append(observed),
            sink=Sink(self.stream, Scrubber(), SystemClock(), 4096) if access else None,
        )

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.context = get_contextvars()
        if scope["path"] == "/fails":
            raise RuntimeError
        if scope["path"] != "/silent":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x"})

    async def get(self, *headers: tuple[bytes, bytes], path: str = "/", method: str = "GET") -> str:
        """The id that the answer carries, or the empty string."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "client": ("127.0.0.1", 1)}
        await self.log(scope, None, send)  # type: ignore[arg-type]
        return str(dict(sent[0]["headers"])[b"x-request-id"].decode()) if sent else ""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.mark.parametrize("own", ["a", "my-id_7.x", "0" * 64, "0192f0c1-2f3a-7000-8000-0123456789ab"])
async def test_a_clients_harmless_id_is_kept(own):
    server = Server()
    assert await server.get((b"x-request-id", own.encode())) == own
    assert server.lines()[0]["request_id"] == server.context["request_id"] == own


@pytest.mark.parametrize(
    "own", [b"", b"0" * 65, b"a b", b"a\r\nb", b"\xff", b"a/b", b"whsec_abcdefgh12345678", b"{}", b"%70%71"]
)
async def test_any_other_id_is_replaced(own):
    assert _OURS.fullmatch(await Server().get((b"x-request-id", own)))


@pytest.mark.parametrize("access", [True, False])
async def test_an_id_that_is_a_secret_is_replaced(access, form, secret, shows):
    server = Server(access=access)
    given = await server.get((b"x-request-id", form(secret).encode()))
    assert _OURS.fullmatch(given)
    assert not shows(server.stream.getvalue(), secret)


async def test_ids_differ():
    server = Server()
    assert len({await server.get() for _ in range(200)}) == 200


@pytest.mark.parametrize(
    ("position", "form"),
    [
        pytest.param(position, form, id=f"{position}-{name}")
        for position, (name, form) in some_of(range(430, 510, 9), FORMS.items())
    ],
)
async def test_a_secret_at_the_end_of_a_long_path_is_gone_whole(position, form, secret, shows):
    server = Server()
    await server.get(path="/" + "p" * position + "/" + form(secret))
    assert not shows(server.stream.getvalue(), secret)
    assert len(server.lines()[0]["path"]) <= 500


async def test_a_token_that_the_cut_would_make_unknowable_is_gone_whole():
    server = Server()
    await server.get(path="/" + "p" * 471 + "/eyJhbGciOiJIUzI1NiJ9." + "c3ViamVjdA" * 10 + ".c2lnbmF0dXJl")
    assert b"eyJ" not in server.stream.getvalue()


async def test_an_invented_method_is_not_repeated(secret):
    server = Server()
    await server.get(method=secret)
    assert server.observed[0][0] == server.lines()[0]["method"] == "OTHER"


async def test_a_path_that_is_no_text_is_still_logged():
    server = Server()
    await server.get(path='/\ud800\x00"\\')
    assert server.lines()[0]["path"] == '/?\x00"\\'


async def test_a_client_that_leaves_before_the_answer_counts_as_499():
    server = Server()
    await server.get(path="/silent")
    assert server.observed[0][2] == server.lines()[0]["status"] == 499


async def test_a_failure_is_counted_and_passed_on():
    server = Server()
    with pytest.raises(RuntimeError):
        await server.get(path="/fails")
    assert len(server.observed) == len(server.lines()) == 1
