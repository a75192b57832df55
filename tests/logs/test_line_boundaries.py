"""Where a JSON string ends, a secret's name must not make the scrubber go on into the next field."""

from __future__ import annotations

import io
import json
import logging
from ipaddress import ip_network

import orjson
import pytest
import structlog

from precipiq_core.edge.request_log import RequestLog
from precipiq_core.system import SystemClock
from precipiq_logs.scrub import BASE_NAMES, Scrubber
from precipiq_logs.sink import Sink
from precipiq_peers.proxies import TrustedProxies
from precipiq_testkit.clock import ManualClock, SeededRandomness

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", BASE_NAMES)
@pytest.mark.parametrize("end", ["=", ": ", "=[", "', ", "': b", '": ', "=%22", "={'", "=\\", "=\\\\", "='", '="'])
def test_a_name_at_the_end_of_a_text_leaves_the_other_fields_alone(name, end):
    for before in ("", "('", "(b'", '["', "/x?"):
        text = before + name + end
        line = orjson.dumps({"event": text, "a": text, "b": [text, text], "c": {text: "x"}, "status": 200})
        assert json.loads(Scrubber().line(line))["status"] == 200


def test_a_prompt_for_a_password_is_one_whole_line(defended):
    with defended() as output:
        structlog.get_logger("plugin").info("Enter password:", attempt=1, user="u")
        logging.getLogger("plugin").info("no key in /x?api_key=")
    first, second = map(json.loads, output.getvalue().splitlines())
    assert (first["event"], first["user"]) == ("Enter password:", "u")
    assert second["event"] == "no key in /x?api_key="


def test_a_traceback_shows_no_variable(defended):
    def fail(customer):
        raise RuntimeError("failed")

    with defended() as output:
        try:
            fail(" ".join(("nothing", "that", "a", "scrubber", "knows")))
        except RuntimeError:
            structlog.get_logger("plugin").exception("failed")
            logging.getLogger("plugin").exception("failed")
    assert output.getvalue().count(b"RuntimeError") >= 2
    assert b"nothing that a scrubber knows" not in output.getvalue()


@pytest.mark.parametrize(
    "shown",
    [
        "[(b'x-precipiq-key', b'planted')]",
        "[(b'host', b'h'), (b'set-cookie', b'planted')]",
        "[['authorization', 'planted']]",
        "[[b'x-precipiq-key', b'planted']]",
        "stripe-signature: t=1,v1=planted",
        "('stripe-signature', 't=1,v1=planted')",
    ],
)
def test_headers_are_known_however_a_library_prints_them(shown):
    for text in (shown, json.dumps({"headers": shown}), repr({"scope": shown})):
        line = Scrubber().line(orjson.dumps({"event": text, "status": 200}))
        assert b"planted" not in line
        assert json.loads(line)["status"] == 200


class _Watched:
    def __init__(self, *sent: dict, failures_only: bool = False) -> None:
        self.stream, self.observed, self.sent = io.BytesIO(), [], []
        self._sends = sent
        log = RequestLog(
            self._app,
            clock=ManualClock(),
            randomness=SeededRandomness(),
            observe=lambda *observed: self.observed.append(observed),
            sink=Sink(self.stream, Scrubber(), SystemClock(), 4096),
            failures_only=failures_only,
        )
        self.app = TrustedProxies(log, [ip_network("127.0.0.0/8")])

    async def _app(self, scope, receive, send):
        for message in self._sends:
            await send(dict(message))

    async def run(self, kind: str = "websocket", *headers) -> list[dict]:
        async def send(message):
            self.sent.append(message)

        scope = {"type": kind, "path": "/ws", "headers": list(headers), "client": ("127.0.0.1", 1)}
        await self.app({**scope, "method": "GET"} if kind == "http" else scope, None, send)
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.send", "text": "abc"}], 101),
        ([{"type": "websocket.http.response.start", "status": 401, "headers": []}], 401),
        ([{"type": "websocket.close", "code": 1000}], 403),
    ],
)
async def test_a_websocket_has_its_id_and_its_line(sent, status):
    watched = _Watched(*sent)
    (line,) = await watched.run()
    assert (line["event"], line["status"], watched.observed) == ("websocket", status, [])
    if sent[0]["type"] != "websocket.close":
        assert (b"x-request-id", line["request_id"].encode()) in watched.sent[0]["headers"]


@pytest.mark.parametrize(("status", "lines"), [(200, 0), (404, 0), (500, 1)])
async def test_above_level_info_only_failures_have_a_line(status, lines):
    watched = _Watched({"type": "http.response.start", "status": status}, failures_only=True)
    assert len(await watched.run("http")) == lines
    assert len(watched.observed) == 1


async def test_the_zone_of_a_forwarded_address_does_not_reach_the_line(secret, shows):
    watched = _Watched({"type": "http.response.start", "status": 200})
    (line,) = await watched.run("http", (b"x-forwarded-for", b"fe80::1%" + secret.encode()))
    assert line["client"] == "127.0.0.1"
    assert not shows(watched.stream.getvalue(), secret)
