"""Downloads over HTTP/2: a client that does not take them costs its own stream, and no memory."""

from __future__ import annotations

import asyncio

import h2.events
import pytest

from tests.serving.file_site import File, content, site
from tests.serving.test_protocols import Http2Client, http2_client
from tests.serving.websocket_peer import until

pytestmark = pytest.mark.anyio

WAIT_S = 20


async def body_of(client: Http2Client, stream: int) -> tuple[dict[bytes, bytes], bytes]:
    """An answer over HTTP/2, taken as it comes."""
    fields: dict[bytes, bytes] = {}
    body = b""
    while data := await client._reader.read(65536):
        for event in client.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                fields = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
                client.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                client.flush()
                return fields, body
        client.flush()
    return fields, body


KEY = (b"x-precipiq-key", b"k")


async def test_http2_has_downloads_too(served, tmp_path) -> None:
    file = File(1_000_000)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        fields, body = await body_of(client, client.request(b"/api/v1/file", KEY))
        assert (fields[b":status"], body) == (b"200", content(0, 1_000_000))
        stream = client.request(b"/api/v1/file", KEY, (b"range", b"bytes=999000-"))
        fields, body = await body_of(client, stream)
        assert (fields[b":status"], body) == (b"206", content(999_000, 1_000_000))
        fields, body = await body_of(client, client.request(b"/api/v1/file", KEY, method=b"HEAD"))
        assert (fields[b"content-length"], body) == (b"1000000", b"")
        client.writer.close()


async def test_over_http2_a_stall_and_a_failure_end_their_stream_alone(served, tmp_path) -> None:
    file = File(50 << 20, piece_bytes=10_000)
    async with served(site(tmp_path, file, download_stall_timeout_s=0.3)) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        stalled = client.request(b"/api/v1/file", KEY)
        assert await client.status(stalled) == 200
        await until(lambda: file.closed == 1)
        assert file.read_bytes < 200_000
        assert await client.status(client.request(b"/healthz")) == 200
        assert stalled in client.reset_streams
        client.h2.increment_flow_control_window(65_535)
        file.failing_at, file.failure = 50_000, OSError("disk")
        failed = client.request(b"/api/v1/file", KEY, (b"range", b"bytes=0-99999"))
        await client.status(failed)
        await until(lambda: file.closed == 2)
        assert await client.status(client.request(b"/healthz")) == 200
        assert failed in client.reset_streams
        client.writer.close()


@pytest.mark.parametrize("surplus", [-100, 100])
async def test_over_http2_the_stream_of_a_file_that_is_not_as_long_as_was_said_is_reset(
    served, tmp_path, surplus
) -> None:
    file = File(20_000, piece_bytes=20_000, surplus_bytes=surplus)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        stream = client.request(b"/api/v1/file", KEY)
        await client.status(stream)
        await until(lambda: file.closed == 1)
        assert await client.status(client.request(b"/healthz")) == 200
        assert client.reset_streams == {stream}
        client.writer.close()


async def test_over_http2_who_resets_its_stream_ends_the_reading(served, tmp_path) -> None:
    file = File(1_000_000)
    async with served(site(tmp_path, file)) as server, asyncio.timeout(WAIT_S):
        client = await http2_client(server.port)
        stream = client.request(b"/api/v1/file", KEY)
        await client.status(stream)
        client.h2.reset_stream(stream)
        client.flush()
        await until(lambda: file.closed == 1)
        client.writer.close()
