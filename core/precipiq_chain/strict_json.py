"""Request bodies as JSON, strictly (RFC 8259, I-JSON's unique names): ambiguous text is refused.

orjson parses what a few cheap looks at the bytes prove harmless; the standard library parses the rest and finds the
exact problem. Both accept the same bodies and give the same values. Must not coerce or repair, and must not repeat
more than a glimpse of the input: problems reach logs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import isinf
from typing import Final, cast

import orjson

from precipiq_chain.canonical import Json

INTEGER_DIGITS_MAX: Final = 4300  # CPython's own bound for int(str)
_ECHO_CHARACTERS_MAX: Final = 40
_PATH_CHARACTERS_MAX: Final = 200

_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NEGATIVE = b"-" + b"0" * 19  # -9223372036854775809 is the first that orjson makes a float
_LONG_POSITIVE = b"0" * 20  # 18446744073709551616 likewise
_PIECE_BYTES = 64 * 1024  # some milliseconds of work that holds the interpreter
_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\2\0")  # 1 more than the change in depth
_NOT_MARKS = bytes(set(range(256)) - set(b'[{]}"'))


class JsonRefused(ValueError):
    """The body is not acceptable JSON.

    ``path``: dotted, to the value or to the object whose key is at fault; "" for the whole. ``problem``: for people;
    repeats at most 40 characters of the body.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}" if path else problem)


def loads(body: bytes | bytearray, *, max_depth: int = 64) -> Json:
    """The value of the body, UTF-8 without byte order mark; integers keep every digit.

    ``max_depth``: how deep arrays and objects may be nested. Takes time linear in the size of the body.
    Raises ``JsonRefused`` on anything that is not JSON, duplicate keys (however escaped), NaN and infinities, numbers
    that no float holds, lone surrogates, integers of more than ``INTEGER_DIGITS_MAX`` digits, and deeper nesting.
    """
    try:
        value: Json = orjson.loads(body)
        written = orjson.dumps(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return _loads_slowly(body, max_depth)
    # A duplicate key that was dropped took a colon with it, and nothing adds one but an escape.
    if body.count(b":") != written.count(b":") or (b"\\" in body and b"\\u003" in body) or _has_long_integer(body):
        return _loads_slowly(body, max_depth)
    if body.count(b"[") + body.count(b"{") > max_depth and _opens_deeper(body, max_depth):
        raise _too_deep(max_depth)
    return value


def has_more_nodes(body: bytes | bytearray, nodes_max: int) -> bool:
    """Whether the JSON in the body has more values and names than that; an object's member counts as two.

    Exact for valid JSON. Parses nothing, in pieces: it may run in a thread beside an event loop, and takes time that is
    linear in the size of the body, some nanoseconds a byte.
    """
    if nodes_at_most(body) <= nodes_max:
        return False
    count = 1
    for outside in _outside_strings(body):
        empty = outside.count(b"[]") + outside.count(b"{}")
        count += sum(outside.count(mark) for mark in (b",", b":", b"[", b"{")) - empty
        if count > nodes_max:
            return True
    return False


def nodes_at_most(body: bytes | bytearray) -> int:
    """A number that the body's nodes do not exceed: strings may hold what looks like some."""
    return 1 + body.count(b",") + body.count(b":") + body.count(b"[") + body.count(b"{")


def _outside_strings(body: bytes | bytearray) -> Iterator[bytes]:
    """The text without white space, strings as quotation marks; no piece ends behind an opening bracket."""
    is_inside, held = 0, b""
    for piece in _without_escapes(body):
        parts = piece.split(b'"')
        outside = held + b'"' * is_inside + b'"'.join(parts[is_inside::2]).translate(None, b" \t\r\n")
        is_inside ^= len(parts) % 2 == 0
        held = outside[-1:] if outside.endswith((b"[", b"{")) else b""
        yield outside[: len(outside) - len(held)]
    yield held


def _without_escapes(body: bytes | bytearray) -> Iterator[bytes]:
    """The text in pieces, without the backslashes and quotation marks that are escaped in strings."""
    start = 0
    while start < len(body):
        piece = bytes(body[start : start + _PIECE_BYTES])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # no escape is cut
            piece += body[start + len(piece) : start + len(piece) + 1]
        start += len(piece)
        yield piece.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in piece else piece


def _has_long_integer(body: bytes | bytearray) -> bool:
    """Whether an integer might exceed 64 bits, which orjson turns into a float. May be wrong about long strings."""
    zeroed = body.translate(_ZEROS)
    return _LONG_POSITIVE in zeroed or _LONG_NEGATIVE in zeroed


def _too_deep(max_depth: int) -> JsonRefused:
    return JsonRefused("", f"nesting deeper than {max_depth}")


def _loads_slowly(body: bytes | bytearray, max_depth: int) -> Json:
    """The whole of the contract with the standard library alone."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise JsonRefused("", "not valid UTF-8") from None
    if text.startswith("\ufeff"):
        raise JsonRefused("", "a byte order mark is not JSON")
    if body.count(b"[") + body.count(b"{") > max_depth and _opens_deeper(body, max_depth):
        raise _too_deep(max_depth)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonRefused("", f"not valid JSON at byte {len(text[: error.pos].encode())}") from None
    except RecursionError:  # only where max_depth allows more than the interpreter
        raise _too_deep(max_depth) from None
    _refuse_first_fault(value)
    return cast("Json", value)


def _opens_deeper(body: bytes | bytearray, max_depth: int) -> bool:
    """Whether arrays and objects are nested deeper, without parsing: no parser sees nesting that could exhaust it.

    Exact for valid JSON.
    """
    left = brackets = _brackets(body)
    for _ in range(max_depth):  # innermost pairs go: valid JSON is gone after as many rounds as it is deep
        outer = left.replace(b"[]", b"")
        if len(outer) == len(left):
            break
        left = outer
    depths = accumulate(step - 1 for step in brackets.translate(_STEPS))
    return bool(left) and any(depth > max_depth for depth in depths)


def _brackets(body: bytes | bytearray) -> bytes:
    """The brackets outside strings, in order, all of them square."""
    marks = b"".join([piece.translate(_AS_ARRAYS, _NOT_MARKS) for piece in _without_escapes(body)])
    marks = marks.replace(b'""', b"")  # so the same marks stay outside strings, and fewer strings
    return b"".join(marks.split(b'"')[::2])


class _Fault:
    """Marks a refused place in the parsed value, until a walk finds it and knows its path."""

    __slots__ = ("problem",)

    def __init__(self, problem: str) -> None:
        self.problem = problem


def _members(pairs: list[tuple[str, object]]) -> dict[str, object] | _Fault:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return _Fault(f"duplicate key {_glimpse(key)!r}")
        seen.add(key)
    raise AssertionError("fewer members than pairs, yet no key twice")


def _constant(name: str) -> _Fault:
    return _Fault(f"{name} is not JSON")


def _integer(digits: str) -> int | _Fault:
    if len(digits) - digits.startswith("-") > INTEGER_DIGITS_MAX:
        return _Fault(f"integer of more than {INTEGER_DIGITS_MAX} digits")
    try:
        return int(digits)
    except ValueError:  # the interpreter may be set to allow fewer
        return _Fault("integer with too many digits")


def _float(digits: str) -> float | _Fault:
    number = float(digits)
    return _Fault("number too large") if isinf(number) else number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_constant=_constant, parse_int=_integer, parse_float=_float
)


def _refuse_first_fault(value: object) -> None:
    """Walk the value in document order, on a stack as high as the nesting; raise at the first fault."""
    path: list[str | int | None] = [None]  # the current label of each open container; None: none yet
    waiting: list[Iterator[tuple[str | int | None, object]]] = [iter(((None, value),))]
    while waiting:
        for path[-1], item in waiting[-1]:
            if type(item) is str:
                if not _is_unicode(item):
                    raise JsonRefused(_join_path(path), "lone surrogate")
            elif type(item) is _Fault:
                raise JsonRefused(_join_path(path), item.problem)
            elif type(item) is dict:
                if not _is_unicode("".join(item)):
                    raise JsonRefused(_join_path(path), "lone surrogate in a key")
                waiting.append(iter(item.items()))
                path.append(None)
                break
            elif type(item) is list:
                waiting.append(iter(enumerate(item)))
                path.append(None)
                break
        else:
            waiting.pop()
            path.pop()


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _glimpse(text: str, characters_max: int = _ECHO_CHARACTERS_MAX) -> str:
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


def _join_path(path: Iterable[str | int | None]) -> str:
    return _glimpse(".".join(_glimpse(str(label)) for label in path if label is not None), _PATH_CHARACTERS_MAX)
