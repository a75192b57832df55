"""Clients that follow a chain through everything, and the stream's parts without a server: for tests of the stream."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from hashlib import sha256
from typing import Any

import httpx2
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from precipiq_chain.canonical import canonical
from precipiq_chain.grouping import idempotency_check
from precipiq_contracts.auth import Principal, RateState
from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_contracts.errors import Unavailable
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.memory import MemoryData, MemoryEntryStore
from precipiq_testkit.sealing import Writer
from precipiq_testkit.server import ServerProcess
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.endings import Ending
from precipiq_ws_stream.feed import Feed
from precipiq_ws_stream.frames import EVERYTHING, Batch, Wanted
from precipiq_ws_stream.frames import Frame as EntryFrame
from precipiq_ws_stream.metrics import StreamMetrics
from precipiq_ws_stream.position import START, Position
from precipiq_ws_stream.service import Request, Streams
from precipiq_ws_stream.subscription import Subscription
from precipiq_ws_stream.transport import WEBSOCKET
from tests.ledger.intruders import Intruder, PostgresIntruder, SqliteIntruder
from tests.system.client import decision
from tests.ws_stream.streams import Frame, stream_url

EVENTUALLY_S = 10.0
RECONNECT_S = 60.0
ZEROS = "0" * 64
ENDINGS_OF_FAULTS = {1006, 4503}
"""What a client may see when the server or its connection dies."""
CHAIN = Chain("org_1", "test")
READER = Principal(CHAIN, "key_1", frozenset({"read"}))


async def eventually(is_so: Callable[[], bool], timeout_s: float = EVENTUALLY_S) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.001)


class FakeLedger:
    """Entries in memory; it can be away, and its watches can end."""

    def __init__(self) -> None:
        self._data = MemoryData()
        self._store = MemoryEntryStore(self._data)
        self.writer = Writer(self._store)
        self.is_away = False
        self.reads: list[tuple[int, int]] = []
        self.watches = 0
        self._ended = asyncio.Event()

    @property
    def entries(self) -> list[Entry]:
        return self._data.entries.setdefault(CHAIN, [])

    async def fill(self, count: int, agent_id: str = "agent") -> list[Entry]:
        return await self.writer.fill(CHAIN, count, agent_id)

    async def rewrite_after(self, seq: int) -> None:
        """As many other entries, hashed right, in the place of those after that one; nobody is woken."""
        count = len(self.entries) - seq
        del self.entries[seq:]
        silent = MemoryEntryStore(MemoryData(self._data.entries))
        await self.writer.on(silent).fill(CHAIN, count, "intruder")

    def end_watches(self) -> None:
        """Every wait for a wake-up ends with the iteration."""
        self._ended.set()
        self._ended = asyncio.Event()

    async def head(self, chain: Chain) -> Head | None:
        self._answer()
        return await self._store.head(chain)

    async def read(self, chain: Chain, after_seq: int, limit: int) -> Sequence[Entry]:
        self._answer()
        self.reads.append((after_seq, limit))
        return await self._store.read(chain, after_seq, limit)

    async def first_unauthentic(self, chain: Chain, entries: Sequence[Entry]) -> Entry | None:
        self._answer()
        return next((entry for entry in entries if entry.mac is None), None)

    @asynccontextmanager
    async def watch(self, chain: Chain) -> AsyncIterator[AsyncIterator[None]]:
        self._answer()
        self.watches += 1
        async with self._store.watch(chain) as wake_ups:
            yield _Ending(wake_ups, self._ended)

    def _answer(self) -> None:
        if self.is_away:
            raise Unavailable("the database is away")


class _Ending:
    def __init__(self, wake_ups: AsyncIterator[None], ended: asyncio.Event) -> None:
        self._wake_ups = wake_ups
        self._ended = ended

    def __aiter__(self) -> _Ending:
        return self

    async def __anext__(self) -> None:
        tasks = [asyncio.ensure_future(work) for work in (anext(self._wake_ups), self._ended.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._ended.is_set():
            raise StopAsyncIteration


class FakeTransport:
    """A client that reads while ``reading`` is set. What was handed over counts as received, as in a socket."""

    name = WEBSOCKET
    hands_over_at_once = True

    def __init__(self, is_reading: bool) -> None:
        self.unsent_bytes: int | None = 1000
        self.frames: list[EntryFrame] = []
        self.controls: list[str] = []
        self.positions: list[int] = []
        self.sizes: list[int] = []
        self.reading = asyncio.Event()
        if is_reading:
            self.reading.set()
        self.ending: Ending | None = None

    @property
    def seqs(self) -> list[int]:
        return [frame.seq for frame in self.frames]

    async def send(self, batches: Sequence[Batch]) -> None:
        self.frames += [frame for batch in batches for frame in batch.frames]
        self.sizes.append(sum(batch.size for batch in batches))
        await self.reading.wait()

    def unsent(self) -> int | None:
        return self.unsent_bytes

    async def send_frame(self, frame: EntryFrame) -> None:
        self.controls.append(frame.kind)
        await self.reading.wait()

    async def tell_position(self, frame: EntryFrame) -> None:
        self.positions.append(frame.seq)

    async def wait_until_left(self) -> Ending:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self, ending: Ending, frame: EntryFrame) -> None:
        self.ending = ending


class NoLimit:
    """An ``AddressLimiter`` that admits all."""

    async def hit(self, name: str, address: str | None, quota: int, window_s: int) -> RateState:
        return RateState(name, quota, window_s, quota, 0, 0.0)


class World:
    """The streams of a process that has one chain, whose keys are good while ``recheck_answer`` says so."""

    def __init__(self, **config: float) -> None:
        self.ledger = FakeLedger()
        self.clock = ManualClock()
        self.config = WsStreamConfig.model_validate(config)
        metrics = StreamMetrics(CollectorRegistry())
        self.streams = Streams(self.ledger, NoLimit(), self.clock, self.config, metrics)  # type: ignore[arg-type]
        self.feeds, self.replays, self.encoder = self.streams._feeds, self.streams._replays, self.streams._encoder
        self.recheck_answer: Principal | Unavailable | None = READER
        self.open: dict[Subscription, asyncio.Task[None]] = {}

    @property
    def feed(self) -> Feed:
        return next(iter(self.open)).feed

    async def recheck(self) -> Principal | None:
        if isinstance(self.recheck_answer, Unavailable):
            raise self.recheck_answer
        return self.recheck_answer

    async def ended(self, subscription: Subscription) -> None:
        """Wait until it has ended."""
        async with asyncio.timeout(EVENTUALLY_S):
            await self.open.pop(subscription)

    async def subscribe(
        self, after: int | None = None, wanted: Wanted = EVERYTHING, *, is_reading: bool = True
    ) -> tuple[Subscription, FakeTransport]:
        """An open subscription; None: from the head on. Raises what refuses it."""
        opened: asyncio.Future[Subscription] = asyncio.get_running_loop().create_future()
        transport = FakeTransport(is_reading)

        async def run() -> None:
            position = None if after is None else self._position(after)
            request = Request(READER, b"one", self.recheck, None, wanted, position)
            async with self.streams.open(request) as opening:
                await self.streams.serve(opening, transport, opened.set_result)

        task = asyncio.create_task(run())
        await asyncio.wait([task, opened], return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            task.result()
        subscription = opened.result()
        self.open[subscription] = task
        return subscription, transport

    def _position(self, seq: int) -> Position:
        return Position(seq, self.ledger.entries[seq - 1].hash) if seq else START

    async def close(self) -> None:
        for task in self.open.values():
            task.cancel()
        await asyncio.gather(*self.open.values(), return_exceptions=True)
        await self.feeds.close()


@asynccontextmanager
async def a_world(**config: float) -> AsyncIterator[World]:
    """A world that is gone afterwards."""
    made = World(**config)
    try:
        yield made
    finally:
        await made.close()


class Refused(Exception):
    """The server ended the stream for good. ``code``: why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


class Broken(Exception):
    """The connection is gone, or could not be made: to be tried again."""


class Follower:
    """A client that goes on after whatever happens, with nothing but what it has processed."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.seq = 0
        self.hash = ZEROS
        self.frames: list[Frame] = []
        self.connections_count = 0
        self.caught_up_count = 0

    def take(self, frame: Frame) -> None:
        """Process one frame. What is no entry's is about the stream itself."""
        if frame["id"] is None:
            assert frame["type"] in ("connection.ready", "caught_up", "connection.closing"), frame
            self.caught_up_count += frame["type"] == "caught_up"
            return
        assert frame["seq"] == self.seq + 1, (self.seq, frame["seq"])
        assert frame["prev_hash"] == self.hash, (self.seq, frame)
        self.seq, self.hash = frame["seq"], frame["hash"]
        self.frames.append(frame)

    async def follow(self, frames_max: int, seconds_max: float) -> bool:
        """Take up to that many frames for that long, then reset the connection; whether it was us who ended it."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + seconds_max
        try:
            async with self._connected() as frames:
                self.connections_count += 1
                while frames_max > 0 and (left_s := deadline_s - loop.time()) > 0:
                    try:
                        frame = await asyncio.wait_for(anext(frames), left_s)
                    except TimeoutError:
                        return True
                    self.take(frame)
                    frames_max -= frame["id"] is not None
        except Broken:
            return False
        return True

    async def catch_up(self, seq: int) -> None:
        """Go on until that entry, whatever happens."""
        async with asyncio.timeout(RECONNECT_S):
            while self.seq < seq:
                if not await self.follow(seq - self.seq, RECONNECT_S):
                    await asyncio.sleep(0.02)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncIterator[Frame]]:
        url = stream_url(self.server, after_seq=self.seq, after_hash=self.hash)
        try:
            connection = await connect(url, max_size=None, proxy=None, ping_interval=None)
        except InvalidStatus as refused:
            if refused.response.status_code != 503:
                raise
            raise Broken from None
        except (OSError, InvalidHandshake, EOFError):
            raise Broken from None

        async def frames() -> AsyncIterator[Frame]:
            try:
                while True:
                    yield json.loads(await connection.recv())
            except ConnectionClosed:
                code = connection.close_code or 1006
                if code in ENDINGS_OF_FAULTS:
                    raise Broken from None
                raise Refused(code, connection.close_reason or "") from None

        try:
            yield frames()
        finally:
            reset(connection.transport.get_extra_info("socket"))
            connection.transport.abort()
            await connection.wait_closed()


class EventsFollower(Follower):
    """The same over server-sent events, as a browser's EventSource: it knows the last event's id only."""

    last_event_id: str | None = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncIterator[Frame]]:
        headers = {"X-Precipiq-Key": self.server.key}
        if self.last_event_id is not None:
            headers["Last-Event-ID"] = self.last_event_id
        async with httpx2.AsyncClient(base_url=self.server.url, headers=headers, trust_env=False) as client:
            try:
                async with client.stream("GET", "/api/v1/stream", params={"after_seq": 0}, timeout=30) as answer:
                    if answer.status_code != 200:
                        assert answer.status_code == 503, await answer.aread()
                        raise Broken
                    yield self._events(answer)
                    reset(answer.extensions["network_stream"].get_extra_info("socket"))
            except (httpx2.HTTPError, OSError):
                raise Broken from None

    async def _events(self, answer: httpx2.Response) -> AsyncIterator[Frame]:
        name_id, data = "", ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                name_id = value
            elif name == "data":
                data += value
            elif not line and data:
                frame = json.loads(data)
                if frame["type"] == "connection.closing":
                    assert frame["data"]["code"] in ENDINGS_OF_FAULTS, frame
                    raise Broken
                self.last_event_id = name_id
                yield frame
                data = ""
        raise Broken


def reset(opened: socket.socket) -> None:
    """Let its end be a TCP reset, if it has not ended."""
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Appender(threading.Thread):
    """Appends until told to stop; what was not acknowledged it sends again, and the chain holds it once."""

    def __init__(self, server: ServerProcess, seed: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self.acknowledged: dict[str, int] = {}
        self._server = server
        self._chosen = random.Random(seed)
        self._pause_s = pause_s

    def run(self) -> None:
        number = 0
        with httpx2.Client(headers={"X-Precipiq-Key": self._server.key}, timeout=5, trust_env=False) as http:
            while not self.stopped.is_set():
                count = self._chosen.choice((1, 1, 5, 40))
                decisions = [decision(n, external_id=f"x-{n}") for n in range(number, number + count)]
                while not self._send(http, decisions):
                    self.stopped.wait(0.05)
                number += count
                self.stopped.wait(self._chosen.uniform(0, 2 * self._pause_s))

    def _send(self, http: httpx2.Client, decisions: list[dict[str, Any]]) -> bool:
        try:
            answer = http.post(f"{self._server.url}/api/v1/decisions/batch", json={"decisions": decisions})
        except httpx2.HTTPError:
            return False
        if answer.status_code == 503:
            return False
        assert answer.is_success, answer.text
        receipts = answer.json()["data"]["receipts"]
        self.acknowledged |= {d["external_id"]: receipt["seq"] for d, receipt in zip(decisions, receipts, strict=True)}
        return True

    async def finish(self) -> None:
        """Stop, once the last was acknowledged."""
        self.stopped.set()
        await asyncio.to_thread(self.join, RECONNECT_S)
        assert not self.is_alive()


def intruder_at(server: ServerProcess) -> Intruder:
    """Somebody with every right in the server's database; the triggers are gone. To be used in one thread."""
    chain = Chain(server.org_id, "test")
    made: Intruder
    if server.postgres is None:
        made = SqliteIntruder(server.database_file, chain, server.folder)
    else:
        made = PostgresIntruder(server.postgres, chain, server.folder)
    made.drop_triggers()
    return made


def rewrite_from(server: ServerProcess, first: int) -> None:
    """Change an entry and compute every hash anew from there on, as an intruder who knows the format would."""
    with closing(intruder_at(server)) as intruder:
        intruder.execute("BEGIN")
        [previous] = intruder.get(first - 1, "hash") if first > 1 else [ZEROS]
        for seq in (seq for seq in intruder.seqs() if seq >= first):
            statement, key = intruder.get(seq, "statement", "idempotency_key")
            fields = json.loads(statement) | {"prev_hash": previous}
            if seq == first:
                fields["body"]["confidence"] = 0.25
            text = canonical(fields)
            previous = sha256(text).hexdigest()
            check = None if key is None else idempotency_check(key.decode(), previous)
            intruder.set(seq, statement=text, hash=previous, idempotency_check=check)
        intruder.execute("COMMIT")


def cut_after(server: ServerProcess, last: int) -> None:
    """Delete what comes after that entry."""
    with closing(intruder_at(server)) as intruder:
        intruder.remove(last + 1)
