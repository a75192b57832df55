"""Plain requests are read without h11: whoever reads, the application and the client see the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import h11
import pytest
from hypercorn.asyncio.worker_context import WorkerContext
from starlette.types import Receive, Scope, Send

from precipiq_http1.grammar import parse_head
from tests.serving.both_protocols import READERS, TURNS, make_config, serve
from tests.serving.odd_requests import connection

pytestmark = pytest.mark.anyio

CONNECTIONS = 2_000
LENGTH_4 = [(b"content-length", b"4")]
GET = b"GET /%b HTTP/1.1\r\nhost: test\r\n\r\n"

# What the application does with a request of that target: headers of its answer, parts of its body, ends with an error.
ANSWERS: dict[str, tuple[int, list[tuple[bytes, bytes]], list[bytes], bool]] = {
    "/": (200, LENGTH_4, [b"abcd"], False),
    "/pieces": (200, LENGTH_4, [b"ab", b"", b"cd"], False),
    "/chunks": (200, [], [b"ab", b"", b"cdef"], False),
    "/chunk": (404, [(b"x-empty", b"")], [b"ab"], False),
    "/empty": (200, [], [], False),
    "/204": (204, [], [b"no body"], False),
    "/304": (304, [(b"etag", b'"a  b"')], [], False),
    "/closes": (200, [*LENGTH_4, (b"connection", b"close")], [b"abcd"], False),
    "/closes-twice": (200, [*LENGTH_4, (b"connection", b"close"), (b"connection", b"close")], [b"abcd"], False),
    "/too-much": (200, LENGTH_4, [b"abc", b"de"], False),
    "/too-little": (200, LENGTH_4, [b"abc"], False),
    "/begun": (200, LENGTH_4, [b"ab"], True),
    "/split": (200, [(b"x-a", b"1\r\nx-b: 2"), *LENGTH_4], [b"abcd"], False),
    "/split-name": (200, [(b"x-a: 1\r\nx-b", b"2"), *LENGTH_4], [b"abcd"], False),
    "/colon": (200, [(b"x: a", b"1"), *LENGTH_4], [b"abcd"], False),
    "/spaces": (200, [(b" X-Upper ", b"  a \t"), *LENGTH_4], [b"abcd"], False),
    "/high": (200, [(b"x-high", b"\xc3\xa4"), (b"x-nul", b"")], [b"abcd"], False),
    "/nul": (200, [(b"x-nul", b"a\0b")], [b"abcd"], False),
    "/host": (200, [(b"x-first", b"1"), (b"host", b"me"), *LENGTH_4], [b"abcd"], False),
    "/two-lengths": (200, [*LENGTH_4, *LENGTH_4], [b"abcd"], False),
    "/other-lengths": (200, [*LENGTH_4, (b"content-length", b"5")], [b"abcd"], False),
    "/no-length": (200, [(b"content-length", b"-4")], [b"abcd"], False),
    "/chunked": (200, [(b"transfer-encoding", b"chunked")], [b"ab", b"cd"], False),
    "/gzip": (200, [(b"transfer-encoding", b"gzip")], [b"ab"], False),
    "/700": (700, LENGTH_4, [b"abcd"], False),
    "/1000": (1000, LENGTH_4, [b"abcd"], False),
    "/pseudo": (200, [(b":status", b"200")], [b"abcd"], False),
}
SHAPES = [target.encode() for target in ANSWERS] + [b"/", b"/a%2fb%20c?d=e%20f&g", b"/unread", b"/silent", b"/raises"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    path = scope["path"]
    while path != "/unread" and (await receive()).get("more_body", False):
        pass
    if path == "/silent":
        return
    if path == "/raises":
        raise RuntimeError
    status, headers, parts, fails = ANSWERS.get(path, ANSWERS["/"])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    if fails:
        raise RuntimeError
    await send({"type": "http.response.body"})
    await send({"type": "http.response.body", "body": b"too late"})


async def verdicts(pieces: list[bytes], **settings: object) -> list[dict[str, Any]]:
    return [(await serve(make, pieces, app, make_config(**settings))).verdict for make in READERS.values()]


@pytest.mark.parametrize("part", range(2))
async def test_any_bytes_have_the_same_effect_whoever_reads_them(part: int) -> None:
    seed = 7_000 + part
    random = Random(seed)
    seen: Counter[str] = Counter()
    for number in range(CONNECTIONS // 2):
        pieces = connection(random, SHAPES)
        plain, odd = await verdicts(pieces, header_bytes_max=1024, keep_alive_requests_max=random.choice([2, 100]))
        assert plain == odd, f"seed {seed}, connection {number}: {pieces}"
        seen["plain"] += parse_head(pieces[0], 1024) is not None
        seen["called"] += bool(plain["calls"])
        seen["called twice"] += len(plain["calls"]) > 1
        seen["refused"] += b" 400 " in plain["answers"]
    assert min(seen[kind] for kind in ("plain", "called", "called twice", "refused")) > CONNECTIONS / 40, seen


@pytest.mark.parametrize("target", ANSWERS)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
async def test_an_answer_has_the_same_bytes_whoever_writes_it(target: str, method: bytes) -> None:
    request = b"%b %b HTTP/1.1\r\nhost: test\r\n\r\n" % (method, target.encode())
    plain, odd = await verdicts([request, request])
    assert plain == odd
    assert plain["calls"]


@pytest.mark.parametrize("size", range(1014, 1034))
async def test_a_head_may_be_as_long_as_before(size: int) -> None:
    start = b"GET / HTTP/1.1\r\nhost: test\r\nx: "
    plain, odd = await verdicts([start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"], header_bytes_max=1024)
    assert plain == odd


async def test_no_requests_are_taken_once_the_server_stops() -> None:
    async def stops(scope: Scope, receive: Receive, send: Send) -> None:
        await context.terminated.set()
        await app(scope, receive, send)

    for make in READERS.values():
        context = WorkerContext(None)
        seen = await serve(make, [GET % b"" * 2, GET % b""], stops, make_config(), context)
        assert (len(seen.calls), seen.is_closed) == (1, True)


async def test_a_plain_answer_is_one_write_and_needs_no_h11(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(h11, "Connection", refuse)
    for path in (b"", b"chunk", b"204", b"closes"):
        seen = await serve(READERS["plain"], [GET % path], whole, make_config())
        assert len(seen.written) == 1
    body = [b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 6\r\n\r\n", b"abc", b"def"]
    seen = await serve(READERS["plain"], body, whole, make_config())
    assert (seen.calls[0]["body"], len(seen.written)) == (b"abcdef", 1)
    assert seen.idle == [False, True]


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    status, headers, parts, _ = ANSWERS[scope["path"]]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join(parts)})


async def test_the_head_of_an_answer_does_not_wait_for_a_body_that_comes_later() -> None:
    waited: list[bool] = []

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": LENGTH_4})
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        waited.append(True)

    seen = await serve(READERS["plain"], [GET % b""], later, make_config())
    assert waited
    assert [data.endswith(b"content-length: 4\r\n\r\n") for data in seen.written] == [True]


async def test_a_body_that_the_application_does_not_read_is_not_taken_from_the_client() -> None:
    async def never_reads(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(50 * TURNS):
            await asyncio.sleep(0)

    head = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n"
    for make in READERS.values():
        config = make_config()
        seen = await serve(make, [head] + [b"x" * 1000] * 40, never_reads, config)
        assert seen.taken == config.max_app_queue_size + 1


@pytest.mark.parametrize("odd", [b"", b"x-odd: \xff\r\n"], ids=list(READERS))
async def test_only_a_connection_without_a_request_is_idle(served, odd: bytes) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(len(asyncio.all_tasks()))
        await asyncio.sleep(0.01 if scope["path"] == "/quick" else 0.6)
        await whole({**scope, "path": "/"}, receive, send)

    tasks: list[int] = []
    async with served(slow, keep_alive_timeout_s=0.3) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for path in [b"quick"] * 20 + [b"slow"]:
            writer.write(b"GET /%b HTTP/1.1\r\nhost: test\r\n%b\r\n" % (path, odd))
            assert (await reader.readuntil(b"abcd")).startswith(b"HTTP/1.1 200 ")
        assert await reader.read() == b""
        writer.close()
    assert len(set(tasks)) == 1
