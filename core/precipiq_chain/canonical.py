"""The one canonical form of a JSON value: what the chain hashes (RFC 8785, JCS, with one extension).

The extension: integers beyond ±(2^53-1) keep all their digits, because 64-bit ids must survive.

Two writers make the same bytes. orjson writes the values that it writes canonically, as a walk over the value shows;
the plain writer writes all others and is the one to read: each of its functions cites its section of the RFC. It keeps
its own stack, so that no value exhausts Python's. Must not coerce: a value that is not JSON is refused, not converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from types import NoneType
from typing import TypeAlias, cast

import orjson

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_PLAIN = frozenset((str, int, bool, NoneType))
_FAST_LEVELS = 64  # the walk recurses; deeper values are the plain writer's
_EXACT_FLOAT = 2.0**53  # below it, an integral float and the integer of that value have the same canonical form
_SMALL_FLOAT = 1e-5  # below it, orjson and ECMAScript differ on where exponents begin


class NotCanonical(ValueError):
    """The value has no canonical form.

    ``path``: keys and indices from the root to the culprit, or to the object whose key is at fault. ``problem``: for
    people; repeats nothing of the value.
    """

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{'.'.join(map(str, path)) or 'the value'}: {problem}")


def canonical(value: Json, *, max_depth: int = 64) -> bytes:
    """The canonical form, UTF-8. ``max_depth``: how deep arrays and objects may be nested.

    Raises ``NotCanonical`` on NaN, infinities, lone surrogates, keys that are not strings, values of any type but
    exactly those of ``Json`` (no subclasses, no tuples), and deeper nesting.
    """
    try:
        if type(value) is dict or type(value) is list:
            value = _settle(value, min(max_depth, _FAST_LEVELS))
        elif type(value) not in _PLAIN:
            raise _Unsure
        fast = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (_Unsure, orjson.JSONEncodeError):
        return _write(value, max_depth)
    if fast.isascii() or _keys_are_ascii(value):
        return fast
    return _write(value, max_depth)


class _Unsure(Exception):
    """orjson's bytes might not be canonical."""


def _settle(container: dict[str, Json] | list[Json], levels: int) -> dict[str, Json] | list[Json]:
    """The container with integral floats as integers: itself, or a copy of the containers that had to change.

    Raises ``_Unsure`` on values that orjson writes differently or must not write: floats beyond 2^53, small or not
    finite, other types, and more levels. orjson refuses big integers, lone surrogates and keys that are not strings.
    """
    if levels <= 0:
        raise _Unsure
    changes: list[tuple[str | int, Json]] | None = None
    for label, item in container.items() if type(container) is dict else enumerate(container):
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind is float:
            number = cast("float", item)
            if _SMALL_FLOAT < number % 1.0 < 1 - _SMALL_FLOAT:  # so neither integral, small, NaN nor infinite
                continue
            if not -_EXACT_FLOAT < number < _EXACT_FLOAT or 0.0 < abs(number) < _SMALL_FLOAT:
                raise _Unsure
            if not number.is_integer():
                continue
            settled: Json = int(number)
        elif kind is dict or kind is list:
            settled = _settle(cast("dict[str, Json] | list[Json]", item), levels - 1)
            if settled is item:
                continue
        else:
            raise _Unsure
        if changes is None:
            changes = []
        changes.append((label, settled))
    if changes is None:
        return container
    copy = container.copy()
    for label, item in changes:
        copy[label] = item  # type: ignore[index]
    return copy


def _keys_are_ascii(value: Json) -> bool:
    """Whether orjson's order of keys, by code point, is that by UTF-16 code unit everywhere."""
    unseen = [value]
    for item in unseen:
        if type(item) is dict:
            if not "".join(item).isascii():
                return False
            unseen.extend(item.values())
        elif type(item) is list:
            unseen.extend(item)
    return True


class _Refused(Exception):
    """A ``NotCanonical`` that does not know its path yet."""


def _write(value: Json, max_depth: int) -> bytes:
    """RFC 8785 section 3.2, without whitespace (3.2.1): open containers wait on a stack of its own."""
    text: list[str] = []
    path: list[str | int | None] = [None]  # the current label of each open container; None: none yet
    members: Iterator[_Member] = iter(((None, "", value),))  # the root is the only member of nothing
    waiting = [(members, "")]
    try:
        while waiting:
            members, closing = waiting[-1]
            for label, lead, item in members:
                path[-1] = label
                text.append(lead)
                if type(item) is not dict and type(item) is not list:
                    text.append(_scalar(item))
                    continue
                if len(waiting) > max_depth:
                    raise _Refused(f"nesting deeper than {max_depth}")
                if type(item) is dict:
                    text.append("{")
                    waiting.append((_properties(item), "}"))
                else:
                    text.append("[")
                    waiting.append((_elements(cast("list[Json]", item)), "]"))
                path.append(None)
                break
            else:
                text.append(closing)
                waiting.pop()
                path.pop()
    except _Refused as refused:
        where = tuple(label for label in path if label is not None)
        raise NotCanonical(where, str(refused)) from None
    return "".join(text).encode()


_Member: TypeAlias = "tuple[str | int | None, str, Json]"  # label, text before the value, the value


def _elements(array: list[Json]) -> Iterator[_Member]:
    """Section 3.2.3: the order of arrays is kept."""
    lead = ""
    for index, item in enumerate(array):
        yield index, lead, item
        lead = ","


def _properties(mapping: dict[str, Json]) -> Iterator[_Member]:
    """Section 3.2.3: sorted by the UTF-16 code units of the unescaped names."""
    for key in mapping:
        if type(key) is not str:
            raise _Refused("a key that is not a string")
        if not _is_unicode(key):
            raise _Refused("lone surrogate in a key")
    lead = ""
    for key in sorted(mapping, key=_utf16):
        yield key, f"{lead}{_string(key)}:", mapping[key]
        lead = ","


def _scalar(value: object) -> str:
    """Sections 3.2.2.1 (literals), 3.2.2.2 (strings), 3.2.2.3 (numbers)."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is str:
        if not _is_unicode(value):
            raise _Refused("lone surrogate")
        return _string(value)
    if type(value) is int:
        return _integer(value)
    if type(value) is float:
        return _float(value)
    raise _Refused(f"{type(value).__name__} is not a JSON type")


_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x20)} | {
    ord("\b"): "\\b",
    ord("\t"): "\\t",
    ord("\n"): "\\n",
    ord("\f"): "\\f",
    ord("\r"): "\\r",
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def _string(value: str) -> str:
    """Section 3.2.2.2: the short escapes, lower-case hexadecimal for other control characters, the rest as it is."""
    return f'"{value.translate(_ESCAPES)}"'


def _is_unicode(value: str) -> bool:
    """Section 3.2.2.2: a lone surrogate is an error."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _integer(value: int) -> str:
    """All digits: within ±(2^53-1) that is section 3.2.2.3, beyond it is the chain's extension."""
    try:
        return str(value)
    except ValueError:  # CPython writes no more than sys.get_int_max_str_digits()
        raise _Refused("integer with too many digits") from None


def _float(value: float) -> str:
    """Section 3.2.2.3: Number::toString of ECMA-262, whose shortest digits are those of ``repr``.

    ``digits`` and ``point`` are its k digits and its n: the value is 0.digits * 10**point.
    """
    if not isfinite(value):
        raise _Refused("NaN and infinities are not JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
