"""How many connections and requests at the same time a client gets, and what keeps the others from being shut out."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from contextlib import AsyncExitStack, suppress

import h2.errors
import h2.events
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from precipiq_contracts.errors import Unavailable
from precipiq_hypercorn import acceptor, http2
from precipiq_hypercorn.door import Door
from tests.serving import floods
from tests.serving.test_protocols import APP, Http2Client, http2_client, tls_of
from tests.serving.websocket_peer import until

pytestmark = pytest.mark.anyio

WAIT_S = 20
_HEARD = h2.events.PingAckReceived | h2.events.ConnectionTerminated
GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Connected(AsyncExitStack):
    """Connections that are closed at the end."""

    async def open(self, port: int, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.callback(writer.close)
        writer.write(data)
        return reader, writer


async def test_an_address_gets_so_many_connections_and_the_next_one_the_documented_error(served) -> None:
    with capture_logs() as logs:
        async with (
            served(APP, connections_per_address_max=2) as server,
            Connected() as clients,
            asyncio.timeout(WAIT_S),
        ):
            (first, writer), _ = [await clients.open(server.port, GET) for _ in range(2)]
            assert (await first.readline()).startswith(b"HTTP/1.1 200")
            for _ in range(5):
                refused, _ = await clients.open(server.port)
                head, _, body = (await refused.read()).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 5" in head.lower()
                assert json.loads(body)["error"]["code"] == "unavailable"
            writer.close()
            await until_served(clients, server.port)
    (told,) = [line for line in logs if line["event"] == "a limit keeps clients out"]
    assert (told["limit"], told["client"]) == ("connections_per_address_max", "127.0.0.1")


async def until_served(clients: Connected, port: int) -> None:
    while True:
        reader, _ = await clients.open(port, GET)
        if (await reader.readline()).startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(0.01)


async def test_a_trusted_proxy_is_not_bound_by_the_limit_of_an_address(served) -> None:
    limits = {"connections_per_address_max": 1, "trusted_proxies": ["127.0.0.0/8"]}
    async with served(APP, **limits) as server, Connected() as clients, asyncio.timeout(WAIT_S):
        for _ in range(5):
            reader, _ = await clients.open(server.port, GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_who_holds_connections_without_a_request_makes_room(served) -> None:
    limits = {"connections_max": 3, "trusted_proxies": ["127.0.0.0/8"]}
    async with served(APP, **limits) as server, Connected() as clients, asyncio.timeout(WAIT_S):
        idle = [(await clients.open(server.port))[0] for _ in range(3)]
        for _ in range(3):
            await until_served(clients, server.port)
        for reader in idle:
            with suppress(ConnectionError):
                assert await reader.read() == b""


async def test_requests_at_the_same_time_on_http2_take_places_too(served) -> None:
    release = asyncio.Event()

    async def app(scope, receive, send) -> None:
        await release.wait()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})

    async with served(app, connections_per_address_max=4) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        waiting = [client.request() for _ in range(3)]
        refused = client.request()
        while refused not in client.reset_streams:
            await read_some(client)
        release.set()
        assert await client.status(waiting[0]) == 200
        later = client.request()
        while later in client.reset_streams or await client.status(later) != 200:
            later = client.request()
        client.writer.close()


async def read_some(client: Http2Client) -> list[h2.events.Event]:
    events = client.h2.receive_data(await client._reader.read(65_536))
    client.reset_streams |= {event.stream_id for event in events if isinstance(event, h2.events.StreamReset)}
    client.flush()
    return events


async def test_a_flood_of_frames_hears_why_it_is_ended(served) -> None:
    async with served(APP, tiny_frames_per_second_max=10, h2_streams_max=1) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        client.flush()
        client.writer.write(floods.frame(floods.PING, 0, 0, b"12345678") * 100)
        heard: list[h2.events.Event] = []
        while not any(isinstance(event, h2.events.ConnectionTerminated) for event in heard):
            heard += await read_some(client)
        ended = heard[-1]
        assert ended.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert ended.additional_data == b"frame rate"
        client.writer.close()


async def test_requests_that_are_taken_back_are_a_flood_and_those_that_are_answered_are_none(served) -> None:
    limits = {"tiny_frames_per_second_max": 10, "h2_streams_max": 4}
    async with served(APP, **limits) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        for _ in range(40):
            assert await client.status(client.request()) == 200
        heard: list[h2.events.Event] = []
        while not any(isinstance(event, h2.events.ConnectionTerminated) for event in heard):
            assert client.h2.highest_outbound_stream_id < 200
            client.h2.reset_stream(client.request(), h2.errors.ErrorCodes.CANCEL)
            client.h2.ping(b"12345678")
            client.flush()
            heard = []
            while not any(isinstance(event, _HEARD) for event in heard):
                heard += await read_some(client)
        assert heard[-1].error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        client.writer.close()


async def test_an_answer_of_which_nothing_is_taken_is_given_up_and_the_others_go_on(served) -> None:
    async with served(APP, tcp_user_timeout_s=0.2) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stuck = client.request()
        assert await client.status(stuck) == 200
        while stuck not in client.reset_streams:
            await read_some(client)
        assert await client.status(client.request()) == 200
        client.writer.close()


async def test_the_client_has_no_say_in_the_size_of_our_packing_table(served, monkeypatch) -> None:
    made: list[http2.CuredH2] = []
    monkeypatch.setattr(http2.CuredH2, "_watch", lambda self, *_: made.append(self))
    async with served(APP) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        client.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 2**31 - 1})
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await client.status(client.request())
        await until(lambda: made)
        assert made[0].connection.encoder.header_table_size == 4096
        client.writer.close()


async def test_without_a_file_left_connections_wait_and_are_served_when_there_is_one_again(served, monkeypatch) -> None:
    monkeypatch.setattr(acceptor, "PAUSE_S", 0.05)
    accept, is_out = socket.socket.accept, True

    def accept_unless_out(listening: socket.socket) -> tuple[socket.socket, object]:
        if is_out:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    doors: list[Door] = []
    note = Door.note_files
    monkeypatch.setattr(Door, "note_files", lambda door, reason: (doors.append(door), note(door, reason))[1])
    monkeypatch.setattr(socket.socket, "accept", accept_unless_out)
    with capture_logs() as logs:
        async with served(APP) as server, Connected() as clients, asyncio.timeout(WAIT_S):
            reader, _ = await clients.open(server.port, GET)
            await until(lambda: len(doors) > 3)
            with pytest.raises(Unavailable):
                doors[0].check()
            is_out = False
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            doors[0].check()
    events = [line["event"] for line in logs]
    assert events.count("no connection can be accepted: no file is left") == 1
    assert events.count("connections are accepted again") == 1


async def test_a_process_that_can_open_no_file_is_not_ready(monkeypatch) -> None:
    door = Door(CollectorRegistry())
    door.check()
    monkeypatch.setattr("precipiq_hypercorn.door.has_free_file", lambda: False)
    with pytest.raises(Unavailable):
        door.check()


async def test_a_tls_handshake_that_never_ends_is_given_up(served, certificate) -> None:
    limits = {"keep_alive_timeout_s": 0.3, "tls": tls_of(certificate)}
    async with served(APP, **limits) as server, Connected() as clients, asyncio.timeout(WAIT_S):
        for data in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, _ = await clients.open(server.port, data)
            assert await reader.read() == b""


async def test_http2_without_tls_is_served_only_where_it_is_asked_for(served) -> None:
    async with served(APP, h2c=False) as server, Connected() as clients, asyncio.timeout(WAIT_S):
        reader, _ = await clients.open(server.port, floods.OPENING + floods.requests(1, floods.head()))
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        await until_served(clients, server.port)


@pytest.mark.parametrize("h2c", [False, True])
async def test_an_upgrade_to_http2_is_never_obeyed(served, h2c) -> None:
    async with served(APP, h2c=h2c) as server, Connected() as clients, asyncio.timeout(WAIT_S):
        reader, _ = await clients.open(server.port, floods.HTTP1["h2c"].opening)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_a_frame_that_is_too_long_is_refused_by_its_length(served) -> None:
    async with served(APP) as server, Connected() as clients, asyncio.timeout(WAIT_S):
        reader, _ = await clients.open(server.port, floods.OPENING + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
        heard = await reader.read()
        assert heard.endswith(b"frame size")
