"""The system's test of kill -9, as it is, over the example database; and a stream that goes on afterwards."""

from __future__ import annotations

import asyncio

import pytest

from precipiq_testkit.server import ServerProcess
from tests.system.client import Client
from tests.system.test_kill_minus_9 import test_no_acknowledged_entry_is_lost_and_no_key_doubled
from tests.ws_stream.streams import assert_linked, stream

__all__ = ["test_no_acknowledged_entry_is_lost_and_no_key_doubled"]

ZEROS = "0" * 64


@pytest.mark.anyio
async def test_a_stream_that_resumes_after_a_kill_has_every_entry_once(server: ServerProcess) -> None:
    client, port = Client(server), server.url.rpartition(":")[2]
    for number in range(20):
        client.decide(number)
    async with stream(server, after_seq=0) as opened:
        await opened.ready()
        frames = await opened.until(12)
        await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start_on, port)
    receipt = client.decide(20)
    async with stream(server, after_seq=frames[-1]["seq"], after_hash=frames[-1]["hash"]) as opened:
        await opened.ready()
        frames += await opened.until(receipt["seq"])
    assert_linked(frames, ZEROS)
    assert [frame["hash"] for frame in frames] == [entry["hash"] for entry in client.entries()]
