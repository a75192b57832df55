"""The parts that bound what clients get, without a server: allowances, places, frames, turns."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest
from priority.priority import DeadlockError, MissingStreamError

from precipiq_peers import open_files
from precipiq_peers.allowance import Allowance
from precipiq_peers.app_events import TINY_PIECE_BYTES, AppEvents
from precipiq_peers.http2_frames import Flood, FrameMeter
from precipiq_peers.places import Limit, Places
from precipiq_peers.round_robin import RoundRobin
from precipiq_testkit.clock import ManualClock
from tests.serving.floods import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OPENING,
    PING,
    PRIORITY,
    PRIORITY_FLAG,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)


def test_an_allowance_is_spent_comes_back_with_time_and_never_exceeds_its_burst() -> None:
    clock = ManualClock()
    allowance = Allowance(10, 20, clock.monotonic_s)
    assert [allowance.spend(10), allowance.spend(10)] == [0, 0]
    assert allowance.spend(5) == pytest.approx(0.5)
    clock.advance(0.5)
    assert allowance.spend(1) == pytest.approx(0.1)
    clock.advance(1_000)
    assert allowance.spend(20) == 0
    assert allowance.spend(1) > 0
    allowance.earn(1_000)
    assert [allowance.spend(20), allowance.spend(1) > 0] == [0, True]


def test_places_are_bounded_for_an_address_and_in_all_and_come_back() -> None:
    places = Places(total_max=3, per_address_max=2, trusted=[ip_network("10.0.0.0/8")])
    peer = places.peer_of("192.0.2.1")
    assert [places.take(peer) for _ in range(3)] == [None, None, Limit.ADDRESS]
    assert [places.take("198.51.100.1") for _ in range(2)] == [None, Limit.TOTAL]
    assert places.take("198.51.100.1", is_replacing=True) is None
    places.give_back("198.51.100.1")
    places.give_back(peer)
    assert places.take(peer) is None
    for held in (peer, peer, "198.51.100.1"):
        places.give_back(held)
    assert (places.count, places._held) == (0, {})


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("10.1.2.3", ""),
        ("::ffff:10.1.2.3", ""),
        ("", ""),
    ],
)
def test_all_addresses_of_one_customer_are_one_peer_and_trusted_proxies_are_nobody(address: str, peer: str) -> None:
    assert Places(1, 1, [ip_network("10.0.0.0/8")]).peer_of(address) == peer


def meter(*, burst: float = 100) -> FrameMeter:
    return FrameMeter(Allowance(1, burst, ManualClock().monotonic_s), frame_bytes_max=16_384, head_bytes_max=1_000)


def passed(data: bytes, *, step: int | None = None, burst: float = 100) -> bytes:
    """What the meter hands on of these bytes, given to it in steps."""
    each, step = meter(burst=burst), step or len(data)
    return b"".join(b"".join(each.pieces(data[at : at + step])) for at in range(0, len(data), step))


REQUEST = frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 1, b"0123456789")
BODY = frame(DATA, 0, 1, b"x" * 300) + frame(DATA, END_STREAM, 1)


@pytest.mark.parametrize("step", [1, 2, 8, 9, 10, 4096])
def test_all_but_priority_is_handed_on_however_it_comes(step: int) -> None:
    priority = frame(PRIORITY, 0, 3, bytes(5))
    sent = OPENING + priority + REQUEST + priority + BODY + priority + frame(PING, 0, 0, bytes(8))
    assert passed(sent, step=step) == OPENING + REQUEST + BODY + frame(PING, 0, 0, bytes(8))


def test_within_a_head_priority_is_an_error_that_the_parser_must_see() -> None:
    sent = OPENING + frame(HEADERS, 0, 1, b"0") + frame(PRIORITY, 0, 3, bytes(5))
    assert passed(sent) == sent


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        (frame(PING, 0, 0, bytes(8)) * 101, "frame rate"),
        (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 51, "frame rate"),
        (frame(DATA, 0, 1) * 101, "frame rate"),
        (frame(PRIORITY, 0, 3, bytes(5)) * 101, "frame rate"),
        ((REQUEST + frame(RST_STREAM, 0, 1, bytes(4))) * 10, "frame rate"),
        (frame(HEADERS, 0, 1, bytes(500)) + frame(CONTINUATION, 0, 1, bytes(501)), "head size"),
        (frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 101, "frame rate"),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", "frame size"),
    ],
)
def test_a_flood_is_seen(flood: bytes, reason: str) -> None:
    with pytest.raises(Flood, match=reason):
        passed(PREFACE_ALONE + flood)


PREFACE_ALONE = OPENING[:24]


def test_what_a_client_was_sent_pays_for_its_frames() -> None:
    each = meter(burst=60)
    list(each.pieces(PREFACE_ALONE))
    for _ in range(100):  # a download: each frame is followed by ten updates
        each.note_sent(16_384)
        list(each.pieces(frame(WINDOW_UPDATE, 0, 0, b"\0\0\1\0") * 10))
    for _ in range(100):  # requests with answers, whose end opens two windows
        list(each.pieces(REQUEST + frame(WINDOW_UPDATE, 0, 0, b"\0\0\1\0") * 2))
        each.note_answered()
    for _ in range(10):  # a byte pays for nothing
        each.note_sent(1)
    with pytest.raises(Flood):
        list(each.pieces(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 21))


def test_what_came_at_once_is_handed_on_in_pieces_of_bounded_work() -> None:
    each = meter(burst=10_000)
    pieces = list(each.pieces(OPENING + frame(PING, 0, 0, bytes(8)) * 1000))
    assert len(pieces) > 30
    assert max(map(len, pieces)) <= len(OPENING) + 17 * 32


def test_each_stream_with_something_to_send_has_its_turn() -> None:
    turns = RoundRobin()
    with pytest.raises(DeadlockError):
        next(turns)
    for stream in (1, 3, 5):
        turns.insert_stream(stream)
    assert [next(turns) for _ in range(4)] == [1, 3, 5, 1]
    turns.block(3)
    assert [next(turns) for _ in range(3)] == [5, 1, 5]
    turns.unblock(3)
    turns.remove_stream(1)
    turns.remove_stream(1)
    assert sorted(next(turns) for _ in range(2)) == [3, 5]
    with pytest.raises(MissingStreamError):
        turns.unblock(1)


@pytest.mark.parametrize(
    ("files", "wanted", "given"),
    [
        (1_000, None, 750),
        (1_000, 600, 600),
        (1_000, 900, 750),
        (1_000_000, None, 10_000),
        (8, None, 16),
        (-1, 50_000, 50_000),
    ],
)
def test_connections_leave_files_for_the_rest(files: int, wanted: int | None, given: int, monkeypatch) -> None:
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (files, files))
    assert open_files.connections_max(wanted) == given


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "waits_s"), [(0, 1.0), (TINY_PIECE_BYTES - 1, 1.0), (TINY_PIECE_BYTES, 0.0)])
async def test_a_body_of_tiny_pieces_is_read_no_faster_than_the_limit(size: int, waits_s: float) -> None:
    events = AppEvents(1_000, 20)
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    for _ in range(40):
        await events.put({"type": "http.request", "body": b"x" * size, "more_body": True})
    assert loop.time() - start_s >= waits_s * 0.9
