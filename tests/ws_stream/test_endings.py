"""How streams end: keys that end, a server that stops, clients that leave; each with its code."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess, running_server
from tests.system.client import Client
from tests.ws_stream.streams import Stream, events, logged, stream, stream_url

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def database() -> str:
    """How a stream ends does not depend on the database: one is enough."""
    return "sqlite"


async def test_a_revoked_key_closes_its_streams_and_no_other(shared_server: ServerProcess) -> None:
    client = Client(shared_server)
    made = client.data("POST", "/api-keys", json={"scopes": ["read"]})
    async with (
        stream(shared_server, made["key"]) as revoked,
        stream(shared_server) as other,
        events(shared_server, made["key"]) as received,
    ):
        await revoked.ready()
        await other.ready()
        await anext(received)
        await asyncio.to_thread(client.data, "DELETE", f"/api-keys/{made['id']}")
        assert await revoked.closed(WITHIN_S) == (4510, "the api key was revoked")
        last = [frame async for frame in received][-1]
        assert last["type"] == "connection.closing"
        assert last["data"] == {"code": 4510, "reason": "the api key was revoked"}
        assert (await other.next())["type"] == "key.revoked"


async def test_a_rotated_key_closes_its_streams_when_its_grace_ends(shared_server: ServerProcess) -> None:
    client = Client(shared_server)
    made = client.data("POST", "/api-keys", json={"scopes": ["read"]})
    async with stream(shared_server, made["key"]) as opened:
        await opened.ready()
        start_s = time.monotonic()
        await asyncio.to_thread(client.data, "POST", f"/api-keys/{made['id']}/rotate", json={"grace_seconds": 3})
        assert (await opened.next())["type"].startswith("key.")
        assert (await opened.closed(3 + WITHIN_S))[0] == 4510
        assert time.monotonic() - start_s > 2.5


async def test_an_expired_key_closes_its_streams(shared_server: ServerProcess) -> None:
    client = Client(shared_server)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
    made = client.data("POST", "/api-keys", json={"scopes": ["read"], "expires_at": expires})
    async with stream(shared_server, made["key"]) as opened:
        await opened.ready()
        assert await opened.closed(3 + WITHIN_S) == (4511, "the api key expired")


async def test_a_revocation_on_one_node_closes_streams_on_the_other(
    migrated_database: PostgresDatabase, tmp_path: Path
) -> None:
    with running_server(tmp_path / "a", postgres=migrated_database) as first:
        client = Client(first)
        made = client.data("POST", "/api-keys", json={"scopes": ["read"]})
        (tmp_path / "b" / "data").mkdir(parents=True, mode=0o700)
        shutil.copy(first.data_dir / "master.key", tmp_path / "b" / "data")
        with running_server(tmp_path / "b", postgres=migrated_database) as second:
            async with stream(second, made["key"]) as opened:
                await opened.ready()
                await asyncio.to_thread(client.data, "DELETE", f"/api-keys/{made['id']}")
                assert (await opened.closed(WITHIN_S))[0] == 4510


async def test_a_stopping_server_tells_every_client_4503(server: ServerProcess) -> None:
    count = 200
    connections = [await connect(stream_url(server, after_seq=0), max_size=None, proxy=None) for _ in range(count)]
    for connection in connections:
        await Stream(connection).ready()
    async with events(server) as received:
        await anext(received)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        endings = await asyncio.gather(*(Stream(connection).closed() for connection in connections))
        last = [frame async for frame in received][-1]
    assert {code for code, _ in endings} == {4503}
    assert last["data"]["code"] == 4503
    assert await stopping == 0


async def test_a_client_that_leaves_is_logged_with_its_own_code(server: ServerProcess) -> None:
    async with stream(server) as opened:
        await opened.ready()
        await opened.connection.close(4123, "bye")
    closed = await logged(server, "stream closed")
    assert closed["reason"] == "client: 4123"
    assert closed["code"] == 0
    assert closed["transport"] == "websocket"
    assert closed["org_id"] == server.org_id


async def test_connections_and_refusals_are_logged_without_a_key(server: ServerProcess) -> None:
    async with stream(server, after_seq=0) as opened:
        await opened.ready()
        await asyncio.to_thread(Client(server).decide, 1)
    for bad in ("pq_test_wrongwrongwrong", server.key[:-1] + ("x" if server.key[-1] != "x" else "y")):
        async with connect(stream_url(server, bad), subprotocols=["precipiq.v1"], proxy=None) as connection:  # type: ignore[list-item]
            await Stream(connection).closed()
    assert (await logged(server, "stream opened"))["after_seq"] == 0
    assert (await logged(server, "stream refused"))["code"] == "unauthorized"
    text = server.log_text()
    printed_once = json.dumps(server.key)[1:-1]
    assert text.count(printed_once) <= 3  # the first start's own lines: key, curl, SDK
    assert "wrongwrong" not in text
    client = Client(server)
    metrics = client.http.get(f"{server.url}/metrics").text
    assert 'precipiq_stream_handshakes_total{result="unauthorized"} 2.0' in metrics
    assert 'precipiq_stream_handshakes_total{result="accepted"} 1.0' in metrics
    assert 'precipiq_stream_connections{transport="websocket"} 0.0' in metrics
