"""Frames: entries in the form in which subscribers get them, encoded once for all subscribers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
import structlog

from precipiq_chain.chain_format import parse_statement
from precipiq_chain.entry_record import raw_entry
from precipiq_contracts.chain import Chain, Entry, EntryKind
from precipiq_contracts.errors import Unavailable
from precipiq_core.http.envelope import encode
from precipiq_ws_stream.position import Position

log = structlog.get_logger("precipiq.ws_stream")


@dataclass(frozen=True, slots=True)
class Frame:
    """One entry as JSON text."""

    seq: int
    hash: str
    kind: str
    agent_id: object
    text: bytes

    @property
    def event(self) -> bytes:
        """The frame as a server-sent event. A line break in JSON is white space; in an event it ends the data."""
        text = self.text.replace(b"\n", b" ").replace(b"\r", b" ")
        return b"id: %d\ndata: %b\n\n" % (self.seq, text)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subscriber's filter; None: everything. ``agent_id``: entries whose body names that agent."""

    kinds: frozenset[str] | None = None
    agent_id: str | None = None

    def accepts(self, kind: str, agent_id: object) -> bool:
        return (self.kinds is None or kind in self.kinds) and (self.agent_id is None or agent_id == self.agent_id)


EVERYTHING = Wanted()

_VARIANTS_MAX = 100


class Batch:
    """Frames of consecutive entries, some of which may be left out, and the positions before and after them.

    Made once for all subscribers; each form of it is built once, for the first subscriber that needs it.
    """

    def __init__(self, start: Position, frames: Sequence[Frame], end: Position) -> None:
        self.start = start
        self.frames = frames
        self.end = end
        self._variants: dict[Wanted, Batch] = {}
        self._variants_size = 0  # never more than the batch itself

    @cached_property
    def websocket(self) -> bytes:
        """All frames as WebSocket text messages."""
        return b"".join([text_frame(frame.text) for frame in self.frames])

    @cached_property
    def events(self) -> bytes:
        """All frames as server-sent events."""
        return b"".join([frame.event for frame in self.frames])

    @cached_property
    def size(self) -> int:
        """Bytes of the frames' text."""
        return sum([len(frame.text) for frame in self.frames])

    def only(self, wanted: Wanted) -> Batch:
        """The same batch with the wanted frames alone."""
        if wanted == EVERYTHING:
            return self
        batch = self._variants.get(wanted)
        if batch is None:
            frames = [frame for frame in self.frames if wanted.accepts(frame.kind, frame.agent_id)]
            if len(frames) == len(self.frames):
                return self
            batch = Batch(self.start, frames, self.end)
            if self._variants_size + batch.size <= self.size and len(self._variants) < _VARIANTS_MAX:
                self._variants_size += batch.size
                self._variants[wanted] = batch
        return batch

    def hash_at(self, seq: int) -> str | None:
        """Hash of the entry before the batch, or of an entry in it. Only where no frame is left out."""
        return self.start.hash if seq == self.start.seq else self.frames[seq - self.start.seq - 1].hash

    def after(self, seq: int) -> Batch:
        """The same batch without the frames up to ``seq``."""
        if seq <= self.start.seq:
            return self
        first = bisect_right(self.frames, seq, key=lambda frame: frame.seq)
        return Batch(Position(seq, None), self.frames[first:], self.end)


def batches(start: Position, frames: Sequence[Frame], end: Position, bytes_max: int) -> list[Batch]:
    """Batches of about ``bytes_max`` at most, together from ``start`` to ``end``; a frame is never divided."""
    made: list[Batch] = []
    size, first = 0, 0
    for index, frame in enumerate(frames):
        if index > first and size + len(frame.text) > bytes_max:
            last = frames[index - 1]
            made.append(Batch(start, frames[first:index], Position(last.seq, last.hash)))
            start, size, first = made[-1].end, 0, index
        size += len(frame.text)
    return [*made, Batch(start, frames[first:], end)]


class Encoder:
    """Encodes entries as frames. ``data`` is the REST shape of the entry's kind, or the raw entry."""

    def __init__(self, kinds: Mapping[str, EntryKind]) -> None:
        self.kinds = kinds
        self._faulty_kinds: set[str] = set()

    async def frames(self, chain: Chain, entries: Sequence[Entry], wanted: Wanted = EVERYTHING) -> list[Frame]:
        """Frames of the wanted entries. Raises ``Unavailable`` where a kind's ``present`` does."""
        statements = [parse_statement(entry.statement) for entry in entries]
        by_kind: dict[str, list[int]] = {}
        for index, statement in enumerate(statements):
            if wanted.accepts(statement.kind, statement.body.get("agent_id")):
                by_kind.setdefault(statement.kind, []).append(index)
        frames: dict[int, Frame] = {}
        for name, indices in by_kind.items():
            kind = self.kinds.get(name)
            shown = await self._show(chain, [entries[index] for index in indices], kind)
            event = f"{name}.created" if kind is None else kind.event_name
            for index, data in zip(indices, shown, strict=True):
                statement, entry = statements[index], entries[index]
                text = (b'{"type":"%b","seq":%d,"id":"%b","timestamp":"%b","prev_hash":"%b","hash":"%b","data":%b}') % (
                    event.encode(),
                    entry.seq,
                    statement.id.encode(),
                    statement.timestamp.encode(),
                    statement.prev_hash.encode(),
                    entry.hash.encode(),
                    data,
                )
                frames[index] = Frame(entry.seq, entry.hash, name, statement.body.get("agent_id"), text)
        return [frames[index] for index in sorted(frames)]

    async def _show(self, chain: Chain, entries: Sequence[Entry], kind: EntryKind | None) -> Sequence[bytes]:
        """Each entry's ``data``; raw where the kind's ``present`` fails."""
        if kind is None or kind.present is None:
            return list(map(_raw, entries))
        try:
            shown = await kind.present(chain, entries)
            if len(shown) != len(entries):
                raise ValueError(f"{len(entries)} entries were shown as {len(shown)}")
            return shown
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  (one plugin's fault must not end all streams of the chain)
            if len(entries) > 1:
                shown = [data for entry in entries for data in await self._show(chain, [entry], kind)]
            else:
                shown = [_raw(entries[0])]
            self._note_fault(kind.name, entries[0].seq, error)
            return shown

    def _note_fault(self, kind: str, seq: int, error: Exception) -> None:
        if kind not in self._faulty_kinds:
            self._faulty_kinds.add(kind)
            log.warning(
                "entries of a kind cannot be shown", kind=kind, seq=seq, error=type(error).__name__, exc_info=True
            )


def _raw(entry: Entry) -> bytes:
    return encode(raw_entry(entry))


def control_frame(kind: str, position: Position, timestamp: str, data: Mapping[str, Any]) -> Frame:
    """A frame about the stream itself, in the same shape; ``seq`` and ``hash`` are those of the position."""
    fields = {
        "type": kind,
        "seq": position.seq,
        "id": None,
        "timestamp": timestamp,
        "prev_hash": None,
        "hash": position.hash,
        "data": data,
    }
    return Frame(position.seq, position.hash or "", kind, None, orjson.dumps(fields))


def text_frame(text: bytes) -> bytes:
    """One unmasked text message in one frame (RFC 6455 section 5.2), as servers send it."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), text)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), text)
