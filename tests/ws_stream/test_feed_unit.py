"""The stream's parts without a server: feed, replays, subscription and keys over a ledger in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from precipiq_contracts.auth import Principal
from precipiq_contracts.errors import Unavailable
from precipiq_testkit.clock import ManualClock
from precipiq_ws_stream.access import TRUSTED_S, KeyAccess, Keys
from precipiq_ws_stream.endings import FORBIDDEN, KEY_EXPIRED, KEY_REVOKED, Ending
from precipiq_ws_stream.errors import CannotResume
from precipiq_ws_stream.frames import EVERYTHING, Batch, Wanted
from precipiq_ws_stream.pages import PageSize
from precipiq_ws_stream.position import START, Position, position_of, read_after
from precipiq_ws_stream.transport import WebSocketTransport
from tests.ws_stream.following import CHAIN, READER, World, a_world, eventually

pytestmark = pytest.mark.anyio

PAGE_BYTES_MAX = 1024 * 1024


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


async def test_what_is_new_is_read_once_for_all(world: World) -> None:
    await world.ledger.fill(3)
    transports = [(await world.subscribe())[1] for _ in range(20)]
    await eventually(lambda: all(transport.controls for transport in transports))
    world.ledger.reads.clear()
    await world.ledger.fill(5)
    await eventually(lambda: all(transport.seqs == [4, 5, 6, 7, 8] for transport in transports))
    assert len(world.ledger.reads) <= 2


async def test_who_falls_out_of_the_newest_part_reads_from_the_ledger() -> None:
    async with a_world(recent_bytes_max=2000, page_entries_max=4) as world:
        await world.ledger.fill(1)
        _, slow = await world.subscribe()
        _, quick = await world.subscribe()
        await eventually(lambda: bool(slow.controls and quick.controls))
        slow.reading.clear()
        for count in range(12):
            await world.ledger.fill(5)
            await eventually(lambda count=count: len(quick.frames) == 5 * (count + 1))  # type: ignore[misc]
        assert slow.seqs[-1] < 61
        slow.reading.set()
        await eventually(lambda: slow.seqs == quick.seqs == list(range(2, 62)))
        assert [frame.hash for frame in slow.frames] == [entry.hash for entry in world.ledger.entries[1:]]


@pytest.mark.parametrize("recent_bytes_max", [0, 4 * 1024 * 1024])
async def test_joining_in_the_middle_of_a_batch_gives_its_rest(recent_bytes_max: int) -> None:
    async with a_world(recent_bytes_max=recent_bytes_max) as world:
        await world.subscribe()
        await world.ledger.fill(10)
        await eventually(lambda: world.feed.position.seq == 10)
        for after in range(11):
            _, transport = await world.subscribe(after)
            await eventually(lambda transport=transport: "caught_up" in transport.controls)  # type: ignore[misc]
            assert transport.seqs == list(range(after + 1, 11))


async def test_filters_leave_out_the_others_in_replay_and_live(world: World) -> None:
    for number in range(30):
        await world.ledger.fill(1, f"agent-{number % 3}")
    subscription, transport = await world.subscribe(0, Wanted(None, "agent-1"))
    _, nothing = await world.subscribe(0, Wanted(frozenset({"unheard_of"})))
    await eventually(lambda: "caught_up" in transport.controls)
    for number in range(30, 60):
        await world.ledger.fill(1, f"agent-{number % 3}")
    await eventually(lambda: subscription.position.seq == 60)
    assert transport.seqs == [seq for seq in range(1, 61) if (seq - 1) % 3 == 1]
    assert nothing.seqs == []
    assert nothing.controls == ["connection.ready", "caught_up"]


async def test_a_full_queue_evicts_only_who_made_no_progress_for_the_grace(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    transport.reading.clear()
    for _ in range(10):
        await world.ledger.fill(50)
    await eventually(lambda: subscription.lag_frames > world.config.queue_frames_max)
    now_s = world.clock.monotonic_s()
    assert subscription.eviction(now_s) is None
    assert subscription.eviction(now_s + world.config.overflow_grace_s - 0.01) is None
    assert subscription.eviction(now_s + world.config.overflow_grace_s) == "overflow"


async def test_bytes_fill_the_queue_as_well(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    transport.reading.clear()
    await world.ledger.fill(1)
    await eventually(lambda: bool(transport.frames))
    draft = world.ledger.writer.draft(payload={"inputs": {"text": "x" * 250_000}})
    for _ in range(5):
        await world.ledger.writer.append(CHAIN, draft)
    await eventually(lambda: world.feed.position.seq == 6)
    now_s = world.clock.monotonic_s()
    assert subscription.lag_frames == 5
    assert subscription.eviction(now_s + 1) is None
    assert subscription.eviction(now_s + world.config.overflow_grace_s) == "overflow"


async def test_who_takes_nothing_is_stalled_although_little_waits(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    assert subscription.eviction(1e9) is None, "an idle stream is no stalled one"
    transport.reading.clear()
    await world.ledger.fill(1)
    await eventually(lambda: bool(transport.frames))
    now_s = world.clock.monotonic_s()
    assert subscription.eviction(now_s + world.config.stall_timeout_s - 0.01) is None
    assert subscription.eviction(now_s + world.config.stall_timeout_s) == "stalled"


async def test_a_slow_but_steady_reader_is_never_evicted() -> None:
    async with a_world(recent_bytes_max=0) as world:
        await world.ledger.fill(3000)
        subscription, transport = await world.subscribe(0)
        transport.reading.clear()
        while subscription.position.seq < 3000:
            sends = len(transport.sizes)
            world.clock.advance(world.config.overflow_grace_s - 0.1)
            assert subscription.eviction(world.clock.monotonic_s()) is None
            transport.reading.set()
            await asyncio.sleep(0)
            transport.reading.clear()
            await eventually(lambda sends=sends: len(transport.sizes) > sends or subscription.position.seq == 3000)  # type: ignore[misc]
        assert transport.seqs == list(range(1, 3001))


async def test_a_large_frame_that_goes_out_slowly_is_progress(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    transport.reading.clear()
    await world.ledger.fill(400)
    await eventually(lambda: bool(transport.frames))
    for unsent in range(1000, 0, -10):
        transport.unsent_bytes = unsent
        world.clock.advance(world.config.overflow_grace_s - 0.1)
        assert subscription.eviction(world.clock.monotonic_s()) is None
    world.clock.advance(world.config.stall_timeout_s)
    assert subscription.eviction(world.clock.monotonic_s()) == "stalled"


async def test_where_nobody_can_tell_what_was_taken_only_the_longer_time_counts(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    transport.unsent_bytes = None
    transport.reading.clear()
    await world.ledger.fill(400)
    await eventually(lambda: subscription.lag_frames > 256 or bool(transport.frames))
    now_s = world.clock.monotonic_s()
    assert subscription.eviction(now_s + world.config.stall_timeout_s - 0.01) is None
    assert subscription.eviction(now_s + world.config.stall_timeout_s) == "stalled"


async def test_a_client_whose_filter_leaves_everything_out_learns_how_far_it_is() -> None:
    async with a_world(heartbeat_interval_s=0.05) as world:
        _, transport = await world.subscribe(0, Wanted(frozenset({"unheard_of"})))
        _, everything = await world.subscribe(0)
        await world.ledger.fill(5)
        await eventually(lambda: 5 in transport.positions)
        assert transport.frames == []
        await world.ledger.fill(2)
        await eventually(lambda: 7 in transport.positions)
        assert everything.positions == []
        assert transport.positions.count(7) == 1


async def test_what_was_handed_over_before_an_eviction_is_never_repeated(world: World) -> None:
    await world.ledger.fill(500)
    received: list[int] = []
    while len(received) < 500:
        subscription, transport = await world.subscribe(len(received))
        await eventually(lambda transport=transport: bool(transport.controls))  # type: ignore[misc]
        transport.reading.clear()
        await eventually(lambda transport=transport: bool(transport.frames))  # type: ignore[misc]
        subscription.evict()
        await world.ended(subscription)
        assert transport.ending == Ending(4508, f"resume={transport.seqs[-1]}")
        received += transport.seqs
    assert received == list(range(1, 501))


async def test_a_ledger_that_is_away_holds_streams_up_and_ends_none(world: World) -> None:
    await world.ledger.fill(300)
    _, live = await world.subscribe()
    await eventually(lambda: bool(live.controls))
    _, replaying = await world.subscribe(0, is_reading=False)
    world.ledger.is_away = True
    replaying.reading.set()
    world.ledger.end_watches()
    await asyncio.sleep(0.3)
    assert replaying.seqs == []
    world.ledger.is_away = False
    await world.ledger.fill(10)
    await eventually(lambda: live.seqs == list(range(301, 311)))
    await eventually(lambda: replaying.seqs == list(range(1, 311)))


async def test_a_stream_that_begins_while_the_ledger_is_away_is_refused(world: World) -> None:
    world.ledger.is_away = True
    with pytest.raises(Unavailable):
        async with world.feeds.use(CHAIN):
            pass
    world.ledger.is_away = False
    async with world.feeds.use(CHAIN) as feed:
        assert feed.position == START


async def test_a_watch_that_ends_is_begun_again(world: World) -> None:
    _, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    for count in range(1, 4):
        watches = world.ledger.watches
        world.ledger.end_watches()
        await world.ledger.fill(2)
        await eventually(lambda count=count: len(transport.frames) == 2 * count)  # type: ignore[misc]
        await eventually(lambda watches=watches: world.ledger.watches > watches)  # type: ignore[misc]
    assert transport.seqs == [1, 2, 3, 4, 5, 6]


async def test_a_chain_rewritten_or_cut_under_its_streams_ends_them(world: World) -> None:
    for harm in (lambda: world.ledger.rewrite_after(7), lambda: asyncio.sleep(0, world.ledger.entries.pop())):
        await world.ledger.fill(10)
        subscription, transport = await world.subscribe(5)
        last = len(world.ledger.entries)
        await eventually(lambda transport=transport, last=last: transport.seqs == list(range(6, last + 1)))  # type: ignore[misc]
        await harm()
        await world.ledger.fill(3, "after")
        await world.ended(subscription)
        assert transport.ending is not None
        assert transport.ending.code == 4409
        assert transport.seqs == list(range(6, last + 1))


async def test_waiters_do_not_pile_up(world: World) -> None:
    await world.subscribe()
    for _ in range(50):
        waiting = asyncio.create_task(world.feed.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    for seq in range(1, 51):
        await world.ledger.fill(1)
        await eventually(lambda seq=seq: world.feed.position.seq == seq)  # type: ignore[misc]
    assert len(world.feed._waiters) <= 1


async def test_huge_entries_make_small_pages(world: World) -> None:
    draft = world.ledger.writer.draft(payload={"inputs": {"text": "x" * 256 * 1024}})
    for _ in range(60):
        await world.ledger.writer.append(CHAIN, draft)
    _, transport = await world.subscribe(0)
    await eventually(lambda: len(transport.frames) == 60)
    assert max(transport.sizes[1:]) < PAGE_BYTES_MAX, "once it has seen how large they are"


async def test_a_feed_is_closed_when_idle_and_opened_again(world: World) -> None:
    async with world.feeds.use(CHAIN) as first:
        await world.ledger.fill(1)
    world.clock.advance(29)
    await world.feeds.close_idle()
    async with world.feeds.use(CHAIN) as again:
        assert again is first
        world.clock.advance(1000)
        await world.feeds.close_idle()
        await world.ledger.fill(1)
        await eventually(lambda: again.position.seq == 2)
    world.clock.advance(31)
    await world.feeds.close_idle()
    assert CHAIN not in world.ledger._data.watchers.chains
    async with world.feeds.use(CHAIN) as other:
        assert other is not first
        assert other.position.seq == 2


async def test_every_part_of_a_chain_is_read_only_where_it_follows(world: World) -> None:
    await world.ledger.fill(5)
    hashes = [entry.hash for entry in world.ledger.entries]
    read = lambda position: read_after(world.ledger, CHAIN, position, 10)  # type: ignore[arg-type] # noqa: E731
    assert [entry.seq for entry in (await read(Position(2, hashes[1])))[1]] == [3, 4, 5]
    assert await read(Position(5, None)) == (Position(5, hashes[4]), [])
    for wrong in (Position(2, hashes[2]), Position(6, None), Position(0, hashes[0]), Position(9, hashes[4])):
        with pytest.raises(CannotResume):
            await read(wrong)
    world.ledger.entries[3] = replace(world.ledger.entries[3], hash="0" * 64)
    with pytest.raises(CannotResume, match="broken after entry 3"):
        await read(START)


async def test_what_was_kept_is_never_taken_for_the_continuation_of_another_chain(world: World) -> None:
    """The feed still has what the chain was; a client that knows what it is now must not get it."""
    await world.subscribe()
    await world.ledger.fill(10)
    await eventually(lambda: world.feed.position.seq == 10)
    await world.ledger.rewrite_after(4)
    subscription, transport = await world.subscribe(6)
    await eventually(lambda: bool(transport.frames) or (subscription in world.open and world.open[subscription].done()))
    now = [entry.hash for entry in world.ledger.entries]
    assert [frame.hash for frame in transport.frames] in ([], now[6:])


async def test_live_entries_go_out_in_small_pieces_however_many_came_at_once(world: World) -> None:
    _, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    world.ledger.is_away = True
    world.ledger.end_watches()
    draft = world.ledger.writer.draft(payload={"inputs": {"text": "x" * 250_000}})
    await world.ledger.writer.append(CHAIN, *[draft] * 40)
    world.ledger.is_away = False
    await eventually(lambda: len(transport.frames) == 40)
    assert max(transport.sizes) <= PAGE_BYTES_MAX


class ForeignSocket:
    """Of a server that takes no ready-made frames: each text waits while the client does not read."""

    takes_frames = False

    def __init__(self, texts_taken: int) -> None:
        self.texts: list[bytes] = []
        self._texts_taken = texts_taken

    async def send_text(self, text: bytes) -> None:
        self.texts.append(text)
        if len(self.texts) >= self._texts_taken:
            await asyncio.Event().wait()


async def test_an_eviction_names_what_was_handed_over_under_other_servers_too(world: World) -> None:
    await world.ledger.fill(50)
    subscription, transport = await world.subscribe(0)
    socket = ForeignSocket(7)
    transport.hands_over_at_once = False
    transport.send_frame = WebSocketTransport(socket, 60).send_frame  # type: ignore[arg-type, method-assign]
    await eventually(lambda: len(socket.texts) == 7)
    subscription.evict()
    await world.ended(subscription)
    assert transport.ending == Ending(4508, "resume=7")


async def test_pages_are_read_once_for_all_who_are_at_the_same_place(world: World) -> None:
    await world.ledger.fill(10)
    size = PageSize(200, 128 * 1024)
    pages = await asyncio.gather(*(world.replays.page(CHAIN, START, EVERYTHING, size) for _ in range(20)))
    assert len({id(page) for page in pages}) == 1
    assert len(world.ledger.reads) == 1


async def test_a_client_on_a_chain_that_is_gone_ends_no_other_at_the_same_place(world: World) -> None:
    await world.ledger.fill(10)
    size = PageSize(200, 128 * 1024)
    stale = Position(6, world.ledger.entries[5].hash)
    await world.ledger.rewrite_after(4)
    good = Position(6, world.ledger.entries[5].hash)
    results = await asyncio.gather(
        *(world.replays.page(CHAIN, position, EVERYTHING, size) for position in (stale, good)), return_exceptions=True
    )
    assert isinstance(results[0], CannotResume)
    assert isinstance(results[1], Batch), results[1]
    assert [frame.seq for frame in results[1].frames] == [7, 8, 9, 10]


async def test_entries_are_held_back_until_somebody_can_tell_that_the_key_is_good(world: World) -> None:
    _, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    world.recheck_answer = Unavailable("away")
    world.clock.advance(TRUSTED_S + 0.1)
    await world.ledger.fill(1)
    await asyncio.sleep(0.3)
    assert transport.seqs == []
    world.recheck_answer = READER
    await eventually(lambda: transport.seqs == [1])


async def test_no_entry_goes_out_after_a_key_is_known_to_be_gone(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    world.recheck_answer = None
    world.clock.advance(TRUSTED_S + 0.1)
    await world.ledger.fill(1)
    await eventually(lambda: subscription.access.ending is not None)
    assert transport.seqs == []


@pytest.mark.parametrize(
    ("expires_at_us", "answer", "ending"),
    [
        (None, None, KEY_REVOKED),
        (1, None, KEY_EXPIRED),
        (2**60, None, KEY_REVOKED),
        (None, Principal(CHAIN, "key_1", frozenset({"write"})), FORBIDDEN),
        (None, READER, None),
    ],
)
async def test_why_a_key_ends(expires_at_us: int | None, answer: Principal | None, ending: Ending | None) -> None:
    async def recheck() -> Principal | None:
        return answer

    access = KeyAccess(replace(READER, expires_at_us=expires_at_us), recheck, ManualClock())
    assert await access.check() == ending
    assert access.is_fresh == (ending is None)


async def test_each_key_is_asked_for_once_and_told_once_it_ends() -> None:
    asked, answers, told = [], {"key": READER}, []

    async def recheck() -> Principal | None:
        asked.append(1)
        return answers.get("key")

    keys = Keys(ManualClock(), told.append)
    with keys.use(READER, b"one", recheck) as first, keys.use(READER, b"one", recheck) as second:
        assert first is second
        await keys.check()
        assert (len(asked), told) == (1, [])
        answers.clear()
        await keys.check()
        assert told == [first]
    await keys.check()
    assert len(asked) == 2


async def test_a_key_that_ended_is_told_although_another_stream_began_with_it() -> None:
    """Who found it first may be a stream that wanted to send; the next one has its own access."""
    told: list[KeyAccess] = []
    answers: list[Principal | None] = [None]

    async def recheck() -> Principal | None:
        return answers[0]

    clock = ManualClock()
    keys = Keys(clock, told.append)
    with keys.use(READER, b"one", recheck) as first:
        clock.advance(TRUSTED_S + 1)
        waiting = asyncio.create_task(first.wait_until_fresh())
        await eventually(lambda: first.ending is not None)
        answers[0] = READER
        with keys.use(READER, b"one", recheck):
            await keys.check()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert told == [first]


async def test_a_batch_gives_every_rest_of_itself(world: World) -> None:
    entries = await world.ledger.fill(9)
    batch = Batch(START, await world.encoder.frames(CHAIN, entries), position_of(await world.ledger.head(CHAIN)))
    for seq in range(10):
        rest = batch.after(seq)
        assert [frame.seq for frame in rest.frames] == list(range(seq + 1, 10))
        assert rest.end == batch.end
    assert batch.only(EVERYTHING) is batch
    nothing = batch.only(Wanted(frozenset()))
    assert (nothing.websocket, nothing.events, nothing.size, nothing.end) == (b"", b"", 0, batch.end)
    assert batch.only(Wanted(frozenset())) is nothing
