"""Requests that carry a secret wherever they can, against the real server: nothing it writes shows it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import pytest
import structlog
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from precipiq_core.edge.credential_shield import CredentialShield
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.edge.request_log import RequestLog
from precipiq_core.edge.security_headers import SecurityHeaders
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.hypercorn_config import ServerConfig
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging, loop_exception_handler
from precipiq_logs.sink import Sink
from precipiq_peers.proxies import TrustedProxies
from tests.effort import some_of
from tests.logs.forms import FORMS

pytestmark = [pytest.mark.anyio, pytest.mark.system]


async def _careless(request: Request) -> Response:
    """A handler that writes all it can reach, as a plugin might."""
    for part in (request.url, request.headers, request.query_params, request.cookies, dict(request.scope)):
        logging.getLogger("plugin").info("saw %r", part)
        structlog.get_logger("plugin").debug("saw", part=part)
        print("saw", part)
    return PlainTextResponse("ok")


async def _failing(request: Request) -> Response:
    key = request.url.query
    raise RuntimeError(f"cannot serve {request.url} {request.headers} {key}")


async def _socket(websocket: WebSocket) -> None:
    logging.getLogger("plugin").info("socket %r %r", websocket.url, websocket.headers)
    await websocket.accept()
    raise RuntimeError(f"cannot serve {websocket.url}")


def _application() -> ASGIApp:
    return Starlette(
        routes=[
            Route("/careless{rest:path}", _careless),
            Route("/failing", _failing),
            WebSocketRoute("/socket", _socket),
            Mount("/slash", routes=[Route("/", _careless)]),
        ]
    )


def _wrapped(sink: Sink) -> ASGIApp:
    """As ``precipiq_core.app`` has it."""
    app: ASGIApp = SecurityHeaders(ErrorBoundary(_application()))
    app = RequestLog(app, clock=SystemClock(), randomness=SystemRandomness(), observe=lambda *observed: None, sink=sink)
    return TrustedProxies(CredentialShield(app), ())


@asynccontextmanager
async def _serving(app: ASGIApp, config: Config) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config.bind = [f"fd://{os.dup(listening.fileno())}"]
        stop = asyncio.Event()
        task = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await task


async def _exchange(port: int, data: bytes) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        answer = await reader.read(65536)
        writer.close()
        return answer


def _get(target: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", "connection: close", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _upgrade(target: str, *fields: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = ["upgrade: websocket", f"sec-websocket-key: {key}", "sec-websocket-version: 13", *fields]
    return _get(target, *handshake).replace(b"connection: close", b"connection: upgrade")


def _requests(text: str) -> dict[str, bytes]:
    text = "".join(text.split())
    url = "".join(f"%{ord(c):02X}" if c in " \"<>\\^`{|}'" else c for c in text)
    return {
        "query": _get(f"/careless?a=1&api_key={url}&q={url}"),
        "query name escaped": _get(f"/careless?api%5Fkey={url}&%61pi_key={url}&api%255Fkey={url}"),
        "duplicates": _get(f"/careless?api_key={url}&api_key={url[::-1]}&api_key={url}%00"),
        "semicolons": _get(f"/careless;api_key={url}?a=1;api_key={url};b=2"),
        "path": _get(f"/careless/{url}/x?{url}"),
        "long path": _get(f"/careless/{'p' * 465}{url}/x"),
        "method": _get("/careless", method="M-" + "".join(c for c in text if c.isalnum() or c in "_-%.")),
        "referer": _get("/careless", f"referer: http://localhost/a?api_key={url}#{url}", f"origin: http://{url}"),
        "headers": _get(
            "/careless", f"x-precipiq-key: {text}", f"authorization: Bearer {text}", f"cookie: key={text}; b={text}",
            f"x-api-key: {text}", f"x-other: {text}", f"user-agent: {text}", f"x-forwarded-uri: /x?api_key={url}",
            f"x-forwarded-for: {text}", f"proxy-authorization: Basic {text}", f"sec-websocket-protocol: {text}",
        ),
        "request id": _get("/careless", f"x-request-id: {text}", f"traceparent: {text}"),
        "not found": _get(f"/missing/{url}?api_key={url}"),
        "method not allowed": _get(f"/careless/{url}", method="DELETE"),
        "slash redirect": _get(f"/slash?api_key={url}&q={url}"),
        "error": _get(f"/failing?api_key={url}&q={url}", f"x-other: {text}"),
        "socket": _upgrade(f"/socket?api_key={url}&q={url}", f"x-other: {text}"),
        "socket not found": _upgrade(f"/none/{url}?api_key={url}"),
        "broken": f"GET /careless?api_key={url} HTTP/9.9\r\n{text}\r\n\r\n".encode(),
        "broken header": f"GET / HTTP/1.1\r\nhost: localhost\r\n{text} : \x01\r\n\r\n".encode(),
    }  # fmt: skip


def _h2_request(text: str) -> bytes:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    text = "".join(text.split())
    pseudo = [(":method", "GET"), (":authority", "localhost"), (":scheme", "http"), (":path", f"/failing?q={text}")]
    connection.send_headers(1, [*pseudo, ("x-other", text), ("authorization", f"Bearer {text}")], end_stream=True)
    return bytes(connection.data_to_send())


async def _all_requests(port: int, text: str) -> dict[str, bytes]:
    answers = {name: await _exchange(port, data) for name, data in _requests(text).items()}
    answers["h2"] = await _exchange(port, _h2_request(text))
    return answers


def _chatter(level: str) -> Callable[[], None]:
    """Libraries told to say all they can."""
    before = {
        name: logging.getLogger(name).level for name in ("hpack", "h2", "hypercorn", "hypercorn.error", "asyncio")
    }
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.INFO)
    return lambda: [logging.getLogger(name).setLevel(number) for name, number in before.items()] and None


# What is logged at "info" is logged at "debug" too.
@pytest.mark.parametrize(
    ("form", "level"),
    [
        *(pytest.param(form, "debug", id=f"{name}-debug") for name, form in FORMS.items()),
        *(pytest.param(form, "info", id=f"{name}-info") for [(name, form)] in some_of(FORMS.items())),
    ],
)
async def test_no_request_shows_its_secret(form, level, secret, shows, capfdbinary):
    stream = _Stream()
    settings = LogSettings(level=level)  # type: ignore[call-arg]
    control = configure_logging(settings, SystemClock(), stream=stream, capture_stdio=True)  # type: ignore[arg-type]
    quiet = _chatter(level)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(loop_exception_handler)
    try:
        async with _serving(_wrapped(control.sink), ServerConfig(HypercornConfig(h2c=True))) as port:  # type: ignore[call-arg]
            answers = await _all_requests(port, form(secret))
    finally:
        loop.set_exception_handler(None)
        quiet()
        control.restore()
    output = bytes(stream.data)
    for line in output.splitlines():
        json.loads(line)
        assert not shows(line, secret), line.decode()
    assert not any(capfdbinary.readouterr())
    assert output.count(b'"logger":"precipiq.access"') >= 13
    for name in ("not found", "method not allowed", "error", "socket not found", "h2"):
        assert not shows(answers[name], secret), name


class _Stream:
    """Only what the sink needs, to see every byte of it."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def flush(self) -> None:
        """Nothing waits."""


async def test_the_same_requests_show_it_without_the_defence(form, secret, shows, undefended):
    with undefended() as output:
        config = Config()
        config.accesslog = config.errorlog = logging.getLogger("server")
        # Hypercorn's own default has the Referer but not the query; common formats have both.
        config.access_log_format = '%(R)s %(q)s %(f)s "%({authorization}i)s"'
        quiet = _chatter("debug")
        try:
            async with _serving(_application(), config) as port:
                for name, data in [*_requests(form(secret)).items(), ("h2", _h2_request(form(secret)))]:
                    start = len(output.getvalue())
                    await _exchange(port, data)
                    await asyncio.sleep(0.01)
                    readable = name != "method" or shows(data.split()[0].upper(), secret)  # the server's upper case
                    if readable and not name.startswith("broken"):
                        assert shows(output.getvalue()[start:], secret), name
        finally:
            quiet()


async def test_hypercorns_default_access_line_shows_the_referer(secret, shows, undefended):
    with undefended() as output:
        config = Config()
        config.accesslog = logging.getLogger("server")
        async with _serving(_application(), config) as port:
            await _exchange(port, _requests(secret)["referer"])
    assert shows(output.getvalue(), secret)


async def test_an_access_line_says_who_what_and_how(defended):
    """All fields, for requests without secrets nothing is lost."""
    stream = _Stream()
    control = configure_logging(LogSettings(), SystemClock(), stream=stream)  # type: ignore[call-arg, arg-type]
    try:
        async with _serving(_wrapped(control.sink), ServerConfig(HypercornConfig(h2c=True))) as port:  # type: ignore[call-arg]
            answer = await _exchange(port, _get("/careless/100%25/%C3%A9?limit=5", "x-request-id: my-id.7"))
    finally:
        control.restore()
    lines = [json.loads(line) for line in stream.data.splitlines()]
    line: dict[str, Any] = next(line for line in lines if line["logger"] == "precipiq.access")
    assert line.pop("duration_ms") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info", "logger": "precipiq.access", "event": "request", "request_id": "my-id.7", "method": "GET",
        "route": "", "path": "/careless/100%/é", "status": 200, "bytes_out": 2, "client": "127.0.0.1", "org_id": None,
        "key_id": None,
    }  # fmt: skip
    assert b"x-request-id: my-id.7" in answer
    saw = next(line for line in lines if line["logger"] == "plugin")
    assert "limit=5" in saw["event"]
    assert saw["request_id"] == "my-id.7"
