"""Takes secrets out of log events by the name of their field, and out of written lines by their shape.

The name pass works on the event's values; the shape pass on the serialised line, where nothing can hide behind
formatting: also when percent-, double-percent-, JSON- or hex-escaped, in base64, or in hexadecimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from precipiq_core.logs import patterns

REDACTED = "[redacted]"

BASE_NAMES = (
    "api_key",
    "access_token",
    "auth_token",
    "id_token",
    "session_token",
    "refresh_token",
    "authorization",
    "cookie",
    "secret",
    "master_key",
    "password",
    "passwd",
    "private_key",
    "query_string",
    "raw_path",
    "stripe_signature",
    "token",
    "precipiq_key",
)

_DEPTH_MAX = 12
_MARK_CHARACTERS = 6
_REDACTED = REDACTED.encode()
_STEMS = ("key", "token", "auth", "cookie", "secret", "passw", "query", "raw", "signature")


class Scrubber:
    """``names``: of fields whose values are secret. ``shapes``: prefixes after which a secret follows."""

    def __init__(self, names: Iterable[str] = (), shapes: Iterable[str] = ()) -> None:
        self._names = {name.lower().replace("-", "_") for name in (*BASE_NAMES, *names)}
        self._prefixes = [*patterns.KEY_PREFIXES, *shapes]
        self._compile()

    def add(self, names: Iterable[str], shapes: Iterable[str] = ()) -> None:
        """More names and shapes, such as plugins contribute."""
        self._names |= {name.lower().replace("-", "_") for name in names}
        self._prefixes += shapes
        self._compile()

    def _compile(self) -> None:
        self._ends = tuple(_joined(name) for name in self._names if name != "token")
        self._stems = _bytes({*_STEMS, *(end for end in self._ends if not any(stem in end for stem in _STEMS))})
        self._assignments = patterns.assignments(self._names)
        self._fields = patterns.header_fields(self._names)
        self._shapes = patterns.shapes(self._prefixes)
        self._hex = patterns.hex_shapes(self._prefixes)
        self._base64 = patterns.base64_shapes(self._prefixes)
        # What a line must contain, cheap to look for, before an expression is tried: ends of the prefixes.
        marks = {prefix[-_MARK_CHARACTERS:] for prefix in self._prefixes}
        self._marks = _bytes(mark.lower() for mark in marks)
        self._hex_marks = _bytes(mark.encode().hex() for mark in marks)
        self._base64_marks = tuple({core for mark in marks for core in patterns.base64_cores(mark)})

    def event(self, event: Mapping[str, object]) -> dict[str, object]:
        """The event with the values of secret names replaced, however deep."""
        return {key: REDACTED if self._is_secret(key) else self._value(value, 0) for key, value in event.items()}

    def line(self, line: bytes) -> bytes:
        """The line with everything that has the shape of a secret replaced. Takes time linear in its length."""
        line = self._clean(line)
        if b"%" in line or b"\\u00" in line or b"\\x" in line:
            plain = patterns.unescaped(line)
            if plain != line:
                clean = self._clean(plain)
                if clean != plain:
                    return clean
        return line

    def _clean(self, line: bytes) -> bytes:
        if b"\\n" in line or b"\n" in line:
            joined = patterns.unwrapped(line)
            if self._base64.search(joined):
                line = joined
        low = line.lower()
        if _any(self._marks, low):
            line = _replaced(self._shapes, line)
        if _any(self._hex_marks, low):
            line = _replaced(self._hex, line)
        if _any(self._base64_marks, line):
            line = self._base64.sub(_REDACTED, line)
        if b"cookie" in low:
            line = patterns.COOKIE.sub(rb"\1" + _REDACTED, line)
        if b"bearer" in low or b"basic" in low:
            line = patterns.BEARER.sub(rb"\1" + _REDACTED, line)
        if _any(self._stems, low):
            line = _replaced(self._assignments, line)
            line = _replaced(self._fields, line)
        if b"eyJ" in line:
            line = patterns.JWT.sub(_REDACTED, line)
        if b"PRIVATE KEY" in line:
            line = patterns.PEM.sub(_REDACTED, line)
        if b"://" in line:
            line = patterns.DSN.sub(rb"\1" + _REDACTED + b"@", line)
        if b"input_value=" in line:
            line = patterns.ECHO.sub(rb"\1" + _REDACTED, line)
        if b"..." in line or b"\xe2\x80\xa6" in line:
            line = patterns.ELIDED.sub(rb"\1" + _REDACTED, line)
        return line

    def _is_secret(self, name: object) -> bool:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if not isinstance(name, str):
            return False
        name = name.lower()
        return name == "token" or _joined(name).endswith(self._ends)

    def _value(self, value: object, depth: int) -> object:
        kind = type(value)
        if kind is str or kind is int or value is None:
            return value
        if depth > _DEPTH_MAX:
            return REDACTED
        if isinstance(value, Mapping):
            return {
                key: REDACTED if self._is_secret(key) else self._value(item, depth + 1) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            if len(value) == 2 and self._is_secret(value[0]):  # a header field
                return [self._value(value[0], depth + 1), REDACTED]
            return [self._value(item, depth + 1) for item in value]
        return value


def _any(marks: tuple[bytes, ...], line: bytes) -> bool:
    for mark in marks:  # noqa: SIM110  (a generator costs more than the search)
        if mark in line:
            return True
    return False


def _replaced(pattern: re.Pattern[bytes], line: bytes) -> bytes:
    """For patterns of lower case: without IGNORECASE the engine skips to where a match may start."""
    pieces: list[bytes] = []
    position = 0
    for match in pattern.finditer(line.lower()):
        groups = match.groupdict()
        if groups.get("bare") and groups.get("plain"):  # a JSON number, true, false or null
            continue
        kept = match.end("quote" if groups.get("quote") else "head") if groups else match.start()
        pieces += [line[position:kept], _REDACTED]
        position = match.end()
    return b"".join([*pieces, line[position:]]) if pieces else line


def _joined(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _bytes(texts: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(sorted(text.encode() for text in texts))
