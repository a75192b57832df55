"""A plugin that cannot show its entries costs their REST shape, and nobody's stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from structlog.testing import capture_logs

from precipiq_chain.entry_record import raw_entry
from precipiq_contracts.chain import Chain, Entry, EntryKind
from precipiq_contracts.errors import Unavailable
from precipiq_core.http.envelope import encode
from precipiq_ws_stream.frames import Frame
from tests.ws_stream.following import CHAIN, World, a_world, eventually

pytestmark = pytest.mark.anyio

SHOWN = b'{"shown":true}'
UNSHOWN_EVENT = "entries of a kind cannot be shown"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


def show(world: World, shown: Callable[[Sequence[Entry]], Sequence[bytes]]) -> None:
    """Let decisions be shown so."""

    async def present(chain: Chain, entries: Sequence[Entry]) -> Sequence[bytes]:
        return shown(entries)

    world.encoder.kinds = {"decision": EntryKind("decision", "a decision", event="decision.made", present=present)}


def faulty_at(*seqs: int) -> Callable[[Sequence[Entry]], Sequence[bytes]]:
    def shown(entries: Sequence[Entry]) -> Sequence[bytes]:
        for entry in entries:
            if entry.seq in seqs:
                raise KeyError(f"entry {entry.seq}")
        return [SHOWN] * len(entries)

    return shown


def seqs_shown(frames: Sequence[Frame]) -> list[int]:
    return [frame.seq for frame in frames if json.loads(frame.text)["data"] == {"shown": True}]


async def test_an_entry_that_cannot_be_shown_goes_out_raw_and_the_others_as_ever(world: World) -> None:
    show(world, faulty_at(4, 9))
    with capture_logs() as lines:
        _, live = await world.subscribe()
        await eventually(lambda: bool(live.controls))
        await world.ledger.fill(12)
        await eventually(lambda: len(live.frames) == 12)
        _, replaying = await world.subscribe(0)
        await eventually(lambda: "caught_up" in replaying.controls)
    for transport in (live, replaying):
        assert transport.seqs == list(range(1, 13))
        assert seqs_shown(transport.frames) == [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
        for seq in (4, 9):
            frame = json.loads(transport.frames[seq - 1].text)
            entry = world.ledger.entries[seq - 1]
            assert (frame["type"], frame["hash"]) == ("decision.made", entry.hash)
            assert frame["data"] == json.loads(encode(raw_entry(entry)))
    [line] = [line for line in lines if line["event"] == UNSHOWN_EVENT]
    assert (line["log_level"], line["kind"], line["seq"], line["error"]) == ("warning", "decision", 4, "KeyError")


async def test_each_kind_is_warned_about_once(world: World) -> None:
    show(world, faulty_at(*range(100)))
    kinds = dict(world.encoder.kinds)
    world.encoder.kinds = {name: EntryKind(name, "", present=kinds["decision"].present) for name in ("decision", "odd")}
    odd = world.ledger.writer.draft(kind="odd")
    with capture_logs() as lines:
        for _ in range(3):
            entries = [*await world.ledger.fill(3), *(await world.ledger.writer.append(CHAIN, odd)).entries]
            frames = await world.encoder.frames(CHAIN, entries)
            assert [frame.seq for frame in frames] == [entry.seq for entry in entries]
    assert [line["kind"] for line in lines if line["event"] == UNSHOWN_EVENT] == ["decision", "odd"]


async def test_answers_that_are_too_few_are_no_answers(world: World) -> None:
    show(world, lambda entries: [SHOWN])
    entries = await world.ledger.fill(3)
    with capture_logs() as lines:
        frames = await world.encoder.frames(CHAIN, entries)
    assert seqs_shown(frames) == [1, 2, 3]
    assert [line["error"] for line in lines] == ["ValueError"]


async def test_what_cannot_be_shown_now_is_tried_again(world: World) -> None:
    is_away = True

    def shown(entries: Sequence[Entry]) -> Sequence[bytes]:
        if is_away:
            raise Unavailable("the database is away")
        return [SHOWN] * len(entries)

    show(world, shown)
    entries = await world.ledger.fill(3)
    with capture_logs() as lines, pytest.raises(Unavailable):
        await world.encoder.frames(CHAIN, entries)
    _, transport = await world.subscribe(0)
    await eventually(lambda: bool(transport.controls))
    is_away = False
    await eventually(lambda: len(transport.frames) == 3)
    assert seqs_shown(transport.frames) == [1, 2, 3]
    assert lines == []
