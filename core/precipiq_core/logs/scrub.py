"""Takes secrets out of log events by the name of their field, and out of written lines by their shape.

The name pass works on the event's values; the shape pass on the serialised line, where nothing can hide behind
formatting: it also knows the shapes percent-, double-percent-, JSON- and hex-escaped, and inside base64.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping

REDACTED = "[redacted]"

BASE_NAMES = (
    "api_key",
    "apikey",
    "access_token",
    "refresh_token",
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "client_secret",
    "secret",
    "master_key",
    "password",
    "passwd",
    "private_key",
    "query_string",
    "raw_path",
    "stripe_signature",
    "token",
    "x_api_key",
    "x_precipiq_key",
)

_DEPTH_MAX = 12
_REDACTED = REDACTED.encode()
_KEY_PREFIXES = ("pq_live_", "pq_test_", "whsec_", "sk_live_", "sk_test_", "rk_live_", "rk_test_")
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/=_-]*")
_BASE64_RUN_REVERSED = _BASE64_RUN
_ESCAPED = rb"(?:%(?:25)*[0-9A-Fa-f]{2}|\\+u00[0-9A-Fa-f]{2}|\\+x[0-9A-Fa-f]{2})"

_BEARER = re.compile(rb"(?i)\b(bearer|basic)((?:\s|%20|\+)+)[A-Za-z0-9._~+/=%-]{6,}")
_JWT = re.compile(rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
_PEM = re.compile(
    rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END).)*(?:-----END [A-Z ]{0,40}-----)?", re.DOTALL
)
_DSN = re.compile(rb"(://[^/\s:@\"\\]{0,100}:)[^@/\s\"\\]{1,200}@")


def _encoded(character: str) -> bytes:
    """Matches a character plainly or in any of the escapes, in either case."""
    codes = {f"{ord(form):02x}" for form in (character.lower(), character.upper())}
    hexadecimal = b"|".join(code.encode() for code in sorted(codes))
    plain = re.escape(character).encode()
    return rb"(?:%b|%%(?:25)*(?:%b)|\\+u00(?:%b)|\\+x(?:%b))" % (plain, hexadecimal, hexadecimal, hexadecimal)


def _shape(prefix: str) -> bytes:
    return b"".join(_encoded(character) for character in prefix) + rb"(?:[0-9A-Za-z]|%b){8,}" % _ESCAPED


def _base64_cores(text: str) -> set[bytes]:
    """What any base64 of something containing ``text`` must contain, for each of the three alignments."""
    cores = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + text.encode())
        first = -(-offset * 8 // 6)
        last = (offset + len(text)) * 8 // 6
        cores.add(encoded[first:last])
    return cores


class Scrubber:
    """``names``: of fields whose values are secret. ``shapes``: prefixes after which a secret follows."""

    def __init__(self, names: Iterable[str] = (), shapes: Iterable[str] = ()) -> None:
        self._names = {_normal(name) for name in (*BASE_NAMES, *names)}
        self._prefixes = [*_KEY_PREFIXES, *shapes]
        self._compile()

    def add(self, names: Iterable[str], shapes: Iterable[str] = ()) -> None:
        """More names and shapes, such as plugins contribute."""
        self._names |= {_normal(name) for name in names}
        self._prefixes += shapes
        self._compile()

    def _compile(self) -> None:
        shapes = b"|".join(_shape(prefix) for prefix in self._prefixes)
        self._shapes = re.compile(rb"(?i)(?:" + shapes + rb")")
        cores = sorted({core for prefix in self._prefixes for core in _base64_cores(prefix) if len(core) >= 6})
        urlsafe = {core.replace(b"+", b"-").replace(b"/", b"_") for core in cores}
        self._cores = re.compile(b"|".join(re.escape(core) for core in sorted({*cores, *urlsafe})))
        self._marks = tuple({prefix.rstrip("_").rpartition("_")[2].encode() for prefix in self._prefixes})
        separator = rb"(?:[_-]|%(?:25)*(?:5f|2d))"
        names = b"|".join(re.escape(name).encode().replace(b"_", separator) for name in sorted(self._names))
        self._pairs = re.compile(
            rb"(?i)(?<![0-9a-z_-])(" + names + rb")(%(?:25)*3d|=|\\*[\"']?\s*:\s*)(\\*[\"']?)([^&\s\"'\\;,}\])]+)"
        )

    def event(self, event: Mapping[str, object]) -> dict[str, object]:
        """The event with the values of secret names replaced, however deep."""
        return {key: REDACTED if self._is_secret(key) else self._value(value, 0) for key, value in event.items()}

    def line(self, line: bytes) -> bytes:
        """The line with everything that has the shape of a secret replaced. Takes time linear in its length."""
        low = line.lower()
        if b"%" in line or b"\\" in line or any(mark in low for mark in self._marks):
            line = self._shapes.sub(_REDACTED, line)
        if self._cores.search(line):
            line = self._without_base64(line)
        if b"=" in line or b":" in line or b"%3" in low or b"%25" in line:
            line = self._pairs.sub(rb"\1\2\3" + _REDACTED, line)
        if b"bearer" in low or b"basic" in low:
            line = _BEARER.sub(rb"\1\2" + _REDACTED, line)
        if b"eyJ" in line:
            line = _JWT.sub(_REDACTED, line)
        if b"PRIVATE KEY" in line:
            line = _PEM.sub(_REDACTED, line)
        if b"://" in line:
            line = _DSN.sub(rb"\1" + _REDACTED + b"@", line)
        return line

    def _without_base64(self, line: bytes) -> bytes:
        pieces: list[bytes] = []
        position = 0
        for core in self._cores.finditer(line):
            if core.start() < position:
                continue
            before = _BASE64_RUN_REVERSED.match(line[position : core.start()][::-1])
            after = _BASE64_RUN.match(line, core.end())
            assert before is not None
            assert after is not None
            pieces += [line[position : core.start() - before.end()], _REDACTED]
            position = after.end()
        return b"".join([*pieces, line[position:]])

    def _is_secret(self, name: object) -> bool:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        return isinstance(name, str) and _normal(name) in self._names

    def _value(self, value: object, depth: int) -> object:
        if type(value) is str or type(value) is int or value is None:
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


def _normal(name: str) -> str:
    return name.lower().replace("-", "_")
