"""Takes secrets out of log events by the name of their field, and out of written lines by their shape.

The name pass works on the event's values; the shape pass on the serialised line, so that formatting cannot hide a
secret: also when percent-, double-percent-, JSON- or hex-escaped, in base64, or in hexadecimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from precipiq_logs import patterns

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
_REPLACEMENTS = (
    (patterns.COOKIE, rb"\1" + _REDACTED),
    (patterns.BEARER, rb"\1" + _REDACTED),
    (patterns.JWT, _REDACTED),
    (patterns.PEM, _REDACTED),
    (patterns.DSN, rb"\1" + _REDACTED + b"@"),
    (patterns.ECHO, rb"\1" + _REDACTED),
    (patterns.ELIDED, rb"\1" + _REDACTED),
)
_WORDS = (
    b"cookie",
    b"signature",
    b"bearer",
    b"basic",
    b"eyj",
    b"private key",
    b"://",
    b"input_value=",
    b"...",
    b"\xe2\x80\xa6",
)


class Scrubber:
    """``names``: of fields whose values are secret. ``shapes``: prefixes after which a secret follows."""

    def __init__(self, names: Iterable[str] = (), shapes: Iterable[str] = ()) -> None:
        self._names: set[str] = set(BASE_NAMES)
        self._prefixes: list[str] = [*patterns.KEY_PREFIXES]
        self.add(names, shapes)

    def add(self, names: Iterable[str], shapes: Iterable[str] = ()) -> None:
        """Add names and shapes, such as plugins contribute."""
        self._names |= {name.lower().replace("-", "_") for name in names if name}
        self._prefixes += [shape for shape in shapes if shape]
        self._compile()

    def _compile(self) -> None:
        self._ends = tuple(_join_words(name) for name in self._names if name != "token")
        self._assignments = patterns.assignments(self._names)
        self._fields = patterns.header_fields(self._names)
        self._shapes = patterns.shapes(self._prefixes)
        self._hex = patterns.hex_shapes(self._prefixes)
        self._base64 = patterns.base64_shapes(self._prefixes)
        # The expressions are tried only on a line with one of these: the end of a prefix, or a word of a pattern.
        ends = {prefix[-_MARK_CHARACTERS:] for prefix in self._prefixes}
        texts = [text.lower().encode() for end in ends for text in (end, end.lower().encode().hex())]
        self._marks = _any_of([*texts, *_WORDS])
        self._base64_marks = _any_of([core for end in ends for core in patterns.base64_cores(end)])

    def event(self, event: Mapping[str, object]) -> dict[str, object]:
        """The event with the values of secret names replaced, however deep."""
        return {key: REDACTED if self._is_secret(key) else self._value(value, 0) for key, value in event.items()}

    def line(self, line: bytes) -> bytes:
        """The line with everything that has the shape of a secret replaced. Takes time linear in its length."""
        line = self._clean(line)
        if b"%" in line or b"\\u00" in line or b"\\x" in line:
            plain = patterns.undo_escapes(line)
            if plain != line:
                clean = self._clean(plain)
                if clean != plain:
                    return clean
        return line

    def _clean(self, line: bytes) -> bytes:
        if b"\\n" in line or b"\n" in line:
            joined = patterns.join_wrapped_lines(line)
            if self._base64.search(joined):
                line = joined
        low = line.lower()
        if self._marks.search(low) or self._base64_marks.search(line):
            line = self._remove_shapes(line)
            low = line.lower()
        if self._assignments.search(low):
            line = _replace(self._assignments, line)
        return _replace(self._fields, line) if b"(" in line or b"[" in line else line

    def _remove_shapes(self, line: bytes) -> bytes:
        line = _replace(self._shapes, line)
        line = _replace(self._hex, line)
        line = self._base64.sub(_REDACTED, line)
        for pattern, replacement in _REPLACEMENTS:
            line = pattern.sub(replacement, line)
        return line

    def _is_secret(self, name: object) -> bool:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if not isinstance(name, str):
            return False
        name = name.lower()
        return name == "token" or _join_words(name).endswith(self._ends)

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


def _replace(pattern: re.Pattern[bytes], line: bytes) -> bytes:
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


def _join_words(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _any_of(words: Iterable[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(re.escape(word) for word in sorted(words)))
