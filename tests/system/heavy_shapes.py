"""Bodies that are small for their bytes' sake and costly for their shape: each is within 10 MiB."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

MIB = 1024 * 1024
BODY_BYTES = 10 * MIB - 4096

Make = Callable[[int], bytes]
"""A JSON value of about that many bytes."""


def _repeated(opening: bytes, item: bytes, closing: bytes) -> Make:
    def make(size: int) -> bytes:
        count = max(1, (size - len(opening) - len(closing)) // (len(item) + 1))
        return opening + b",".join([item] * count) + closing

    return make


def _numbered(opening: bytes, item: str, closing: bytes) -> Make:
    """Items that differ: names in a disorder, so that sorting them is work."""

    def make(size: int) -> bytes:
        count = max(1, size // (len(item.format(0).encode()) + 7))
        numbers = [f"{(number * 7919) % count:06x}" for number in range(count)]
        return opening + b",".join([item.format(number).encode() for number in numbers]) + closing

    return make


def _text(piece: bytes) -> Make:
    return lambda size: b'"' + piece * (size // len(piece)) + b'"'


SHAPES: dict[str, Make] = {
    "empty objects": _repeated(b"[", b"{}", b"]"),
    "empty arrays": _repeated(b"[", b"[]", b"]"),
    "small arrays": _repeated(b"[", b"[1,2]", b"]"),
    "arrays 60 deep": _repeated(b"[", b"[" * 60 + b"]" * 60, b"]"),
    "small numbers": _repeated(b"[", b"7", b"]"),
    "floats without a short form": _repeated(b"[", b"1.5e-7", b"]"),
    "integers of 20 digits": _repeated(b"[", b"9" * 20, b"]"),
    "integers of 4,300 digits": _repeated(b"[", b"9" * 4300, b"]"),
    "an integer of very many digits": lambda size: b"[" + b"9" * size + b"]",
    "an object of many members": _numbered(b"{", '"{}":1', b"}"),
    "names that are not ASCII": _numbered(b"{", '"\U0001f680{}":1', b"}"),
    "names with escapes": _numbered(b"{", '"\\u003a{}":1', b"}"),
    "names with lone surrogates": _numbered(b"{", '"\\ud800{}":1', b"}"),
    "one name again and again": _repeated(b"{", b'"a":1', b"}"),
    "a long name": lambda size: b'{"' + b"k" * size + b'":1}',
    "a long text": _text(b"x"),
    "a text of commas": _text(b","),
    "a text of brackets": _text(b"[{"),
    "a text of escapes": _text(b"\\u003a"),
    "a text of line breaks": _text(b"\\n"),
    "a text of backslashes": _text(b"\\\\"),
    "a text of emoji": _text("\U0001f680".encode()),
    "a long text with an emoji": lambda size: '"\U0001f680'.encode() + b"x" * size + b'"',
    "a text of lone surrogates": _text(b"\\ud800"),
    "white space": lambda size: b" " * size + b"1",
    "never closed": lambda size: b"[" * size,
    "not UTF-8": _text(b"\xff"),
}

_DECISION = b'{"agent_id":"a","action_type":"t","inputs":{"v":%b},"outputs":{},"confidence":1%b}'


def decision_with(value: bytes, more: bytes = b"") -> bytes:
    """A decision that holds the value."""
    return _DECISION % (value, more)


def attacks() -> Iterator[tuple[str, str, bytes]]:
    """Name, path and body of requests that are to be made with one key."""
    for name, make in SHAPES.items():
        yield f"decision: {name}", "/decisions", decision_with(make(BODY_BYTES))
        yield f"256 KiB: {name}", "/decisions", decision_with(make(256 * 1024 - 1000))
    for name in ("empty objects", "small numbers", "an object of many members", "names that are not ASCII"):
        value = SHAPES[name]
        yield f"alternatives: {name}", "/decisions", decision_with(b"1", b',"alternatives":' + value(BODY_BYTES))
        yield f"decisions: {name}", "/decisions/batch", b'{"decisions":%b}' % value(BODY_BYTES)
        yield f"batch: {name}", "/decisions/batch", batch_of(decision_with(value(95 * 1024)))
        yield f"metadata: {name}", "/financial-events", event_with(value(250 * 1024))
        yield f"formats: {name}", "/exports", b'{"formats":%b}' % value(BODY_BYTES)
        yield f"notes: {name}", "/links", b'{"notes":%b}' % value(BODY_BYTES)
    yield "unknown names in each decision", "/decisions/batch", batch_of(SHAPES["an object of many members"](30_000))
    yield "unknown names", "/links", SHAPES["an object of many members"](600_000)


def batch_of(decision: bytes) -> bytes:
    return b'{"decisions":[%b]}' % b",".join([decision] * 100)


def event_with(value: bytes) -> bytes:
    event = json.dumps({"source": "manual", "event_type": "payment", "amount": "1", "currency": "USD"})
    return event.encode()[:-1] + b',"metadata":{"v":%b}}' % value
