"""TLS, and requests that are not what they should be: a clean refusal, and nobody else on the connection suffers."""

from __future__ import annotations

import asyncio
import logging
import ssl

import h2.config
import h2.connection
import h2.events
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from precipiq_contracts.errors import DeploymentError
from precipiq_core.edge.head_limit import HeadLimit, HeadRefusal
from precipiq_hypercorn.config import HypercornConfig

pytestmark = pytest.mark.anyio

WAIT_S = 10


async def answer(request: Request) -> Response:
    return PlainTextResponse(request.scope["http_version"])


async def accept(websocket: WebSocket) -> None:
    await websocket.accept()


APP = HeadLimit(
    HeadRefusal(Starlette(routes=[Route("/", answer, methods=["GET", "POST"]), WebSocketRoute("/socket", accept)])),
    fields_max=100,
    bytes_max=16 * 1024,
)


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def tls_of(certificate) -> dict[str, str]:
    return {"certificate_file": str(certificate.certificate_file), "key_file": str(certificate.key_file)}


async def test_http2_is_negotiated_over_tls(served, certificate) -> None:
    async with served(APP, tls=tls_of(certificate)) as server, asyncio.timeout(WAIT_S):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=client_context())
        connection = writer.get_extra_info("ssl_object")
        assert connection.selected_alpn_protocol() == "h2"
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
        writer.close()


async def test_tls_1_1_is_refused(served, certificate) -> None:
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with served(APP, tls=tls_of(certificate)) as server, asyncio.timeout(WAIT_S):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


async def test_tls_1_2_without_forward_secrecy_is_refused(served, certificate) -> None:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256:@SECLEVEL=0")
    async with served(APP, tls=tls_of(certificate)) as server, asyncio.timeout(WAIT_S):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


async def start(served, **settings: object) -> None:
    async with served(APP, **settings):
        raise AssertionError("the server started")


async def test_every_file_of_a_certificate_that_cannot_be_read_is_named(served, tmp_path) -> None:
    missing = {"certificate_file": str(tmp_path / "c.pem"), "key_file": str(tmp_path / "k.pem")}
    with pytest.raises(DeploymentError) as refused:
        await start(served, tls=missing)
    assert len(refused.value.problems) == 2
    assert "c.pem" in refused.value.problems[0]
    assert "k.pem" in refused.value.problems[1]


async def test_a_key_of_another_certificate_is_refused(served, certificate, other_certificate) -> None:
    with pytest.raises(DeploymentError, match=r"server\.tls"):
        await start(served, tls={**tls_of(certificate), "key_file": str(other_certificate.key_file)})


async def test_a_file_that_is_no_certificate_is_refused(served, certificate, tmp_path) -> None:
    (tmp_path / "nonsense.pem").write_text("nonsense")
    with pytest.raises(DeploymentError, match=r"server\.tls"):
        await start(served, tls={**tls_of(certificate), "certificate_file": str(tmp_path / "nonsense.pem")})


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="key_file"):
        HypercornConfig.model_validate({"tls": {"certificate_file": "c.pem"}})


FLOODS = {
    "a long value, in one packet": b"x: " + b"a" * 20_000 + b"\r\n\r\n",
    "many fields": b"a: b\r\n" * 2000 + b"\r\n",
    "a megabyte": b"x: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "no end": b"x: " + b"a" * 100_000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_headers_is_answered_431_or_cut_off(served, flood) -> None:
    """Past what the parser holds the connection is closed with data unread, and the reset may overtake the answer."""
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n" + flood)
            answered = await reader.readline()
            assert answered.startswith(b"HTTP/1.1 431")
        except ConnectionError:
            assert len(flood) > 65_536
        finally:
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_head_within_the_limit_is_served(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\nx: " + b"a" * 15_000 + b"\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


class Http2Client:
    """One connection, prior knowledge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
        )
        self.h2.initiate_connection()
        self._reader, self.writer = reader, writer
        self.reset_streams: set[int] = set()

    def request(self, path: bytes = b"/", *extra: tuple[bytes, bytes], method: bytes = b"GET", end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        fields = [(b":method", method), (b":path", path), (b":scheme", b"http"), (b":authority", b"test"), *extra]
        self.h2.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def status(self, stream: int) -> int:
        """Of the answer to that stream. Fails when the connection or the stream ends without one."""
        while data := await self._reader.read(65536):
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    return int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamReset):
                    self.reset_streams.add(event.stream_id)
                assert not isinstance(event, h2.events.ConnectionTerminated)
            self.flush()
        raise AssertionError("the connection ended")


async def http2_client(port: int) -> Http2Client:
    return Http2Client(*await asyncio.open_connection("127.0.0.1", port))


async def test_http2_resets_a_path_outside_ascii_and_goes_on_without_a_word_in_the_log(served, caplog) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        refused = client.request("/grüße?ä".encode())
        assert await client.status(client.request()) == 200
        assert client.reset_streams == {refused}
        client.writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_http2_refuses_a_flood_of_headers_and_goes_on(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        assert await client.status(client.request(b"/", (b"x", b"a" * 20_000))) == 431
        assert await client.status(client.request()) == 200
        client.writer.close()


async def test_http2_goes_on_after_a_body_that_came_too_late(served, caplog) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        late = client.request(b"/nowhere", method=b"POST", end=False)
        client.h2.send_data(late, b"x" * 16_000)
        client.flush()
        assert await client.status(late) == 404
        for _ in range(20):
            await asyncio.sleep(0.1)  # past the time that the server lingers
            try:
                client.h2.send_data(late, b"x")
            except h2.exceptions.ProtocolError:
                break
            client.flush()
            assert await client.status(client.request()) == 200
        client.writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_http2_is_told_that_the_server_drains(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        assert await client.status(client.request()) == 200
        await server.gate.drain(0.1)
        assert await client.status(client.request()) == 503
        client.writer.close()


async def test_compression_of_websocket_messages_is_not_offered(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET /socket HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"deflate" not in head.lower()
        writer.close()


async def test_no_answer_names_the_server(served) -> None:
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b"server:" not in head
        assert b"hypercorn" not in head
        writer.close()
