"""A head that is too large is read by no layer, and a body is waited for in bounded time from its first piece on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from precipiq_contracts.errors import Unavailable
from precipiq_core.app import _layers
from precipiq_core.edge.head_limit import HeadLimit, HeadRefusal
from precipiq_core.http.body import read_raw
from precipiq_core.http.errors import PayloadTooLarge, RequestTimeout
from precipiq_core.http.request_work import SMALL_BODY_BYTES, BodyMemory, BodyWork, RequestWork
from precipiq_core.http.settings import HttpSettings
from precipiq_work.off_loop import OffLoop

pytestmark = pytest.mark.anyio

LARGE = {"a field": [(b"x", b"a" * 2000)], "many fields": [(b"x", b"")] * 20, "a path": [], "a query": []}


def scope_of(kind: str, what: str) -> dict[str, Any]:
    query = b"q" * 2000 if what == "a query" else b"q=1"
    path = b"/" + (b"p" * 2000 if what == "a path" else b"p")
    return {
        "type": kind,
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "headers": LARGE.get(what, []),
    }


async def passed(kind: str, what: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a layer between the limit and the refusal sees of that request, and what is sent."""
    seen, sent = [], []

    async def never(scope: Any, receive: Any, send: Any) -> None:
        sent.append({"type": "served"})

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await HeadRefusal(never)(scope, receive, send)

    async def send(message: Any) -> None:
        sent.append(message)

    await HeadLimit(layer, fields_max=10, bytes_max=1000)(scope_of(kind, what), None, send)  # type: ignore[arg-type]
    return seen, sent


@pytest.mark.parametrize("what", LARGE)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_no_layer_sees_a_head_that_is_too_large(kind: str, what: str) -> None:
    (seen,), sent = await passed(kind, what)
    assert (seen["headers"], seen["query_string"], seen["raw_path"]) == ([], b"", b"/")
    assert len(seen["path"]) < 20
    first = {"http": {"type": "http.response.start", "status": 431}, "websocket": {"type": "websocket.close"}}[kind]
    assert first.items() <= sent[0].items()


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_any_other_head_is_handed_on_as_it_is(kind: str) -> None:
    (seen,), sent = await passed(kind, "nothing")
    assert seen == scope_of(kind, "nothing")
    assert sent == [{"type": "served"}]


def test_the_limit_is_the_outermost_layer() -> None:
    source = _layers.__code__.co_names
    assert source.index("HeadLimit") < source.index("CredentialShield") < source.index("HeadRefusal")


async def read(
    headers: list[tuple[bytes, bytes]], receive: Any, bytes_max: int, timeout_s: float, memory: BodyMemory | None = None
) -> bytes | bytearray:
    """As an endpoint does, with a key or, where there is ``memory``, without."""
    work = BodyWork(RequestWork(HttpSettings(), OffLoop()), None, memory)
    try:
        return await read_raw(headers, receive, bytes_max, timeout_s, work)
    finally:
        work.release()


@pytest.mark.parametrize("declared", [[], [(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")]])
@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_a_body_that_stops_is_given_up(declared: list[tuple[bytes, bytes]], pieces: int) -> None:
    left = [{"type": "http.request", "body": b"x", "more_body": True}] * pieces

    async def receive() -> Any:
        return left.pop() if left else await asyncio.Event().wait()

    async with asyncio.timeout(20):
        with pytest.raises(RequestTimeout):
            await read(declared, receive, 100, 0.05)


@pytest.mark.parametrize(
    "sizes", [[], [0], [100], [40, 60], [0, 0, 100], [1] * 100, [101], [100, 1], [1] * 101, [50, 51]]
)
async def test_a_body_is_read_to_its_end_up_to_the_bound(sizes: list[int]) -> None:
    left = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    left.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return left.pop(0)

    if sum(sizes) > 100:
        with pytest.raises(PayloadTooLarge):
            await read([], receive, 100, 20)
    else:
        assert await read([], receive, 100, 20) == b"x" * sum(sizes)


async def test_large_bodies_without_a_key_share_their_memory_and_small_ones_always_have_it() -> None:
    memory, large, small = BodyMemory(1000), SMALL_BODY_BYTES + 600, SMALL_BODY_BYTES
    ends = asyncio.Event()

    def sender(size: int) -> Any:
        left = [size // 2, size - size // 2]

        async def receive() -> Any:
            if left:
                return {"type": "http.request", "body": b"x" * left.pop(), "more_body": True}
            await ends.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        return receive

    async with asyncio.timeout(20):
        waiting = [asyncio.create_task(read([], sender(size), 1 << 20, 20, memory)) for size in (large, *[small] * 9)]
        await asyncio.sleep(0)
        while memory.left_bytes != 400:
            await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await read([], sender(large), 1 << 20, 20, memory)
        with pytest.raises(RequestTimeout):
            await read([], sender(small + 400), 1 << 20, 0.01, memory)
        assert memory.left_bytes == 400
        ends.set()
        assert [len(body) for body in await asyncio.gather(*waiting)] == [large, *[small] * 9]
        assert memory.left_bytes == 1000
        assert len(await read([], sender(large), 1 << 20, 20, memory)) == large
