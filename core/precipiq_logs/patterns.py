"""The shapes of secrets in a serialised log line. Owns the regular expressions; decides nothing.

Each takes time linear in the line: a match can begin only once in any run that it would have to scan, or is bounded.
They keep JSON valid: none passes the end of the string in which it begins, none splits an escape.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

KEY_PREFIXES = ("pq_live_", "pq_test_", "whsec_", "sk_live_", "sk_test_", "rk_live_", "rk_test_")

_ESCAPED = rb"%(?:25)*[0-9A-Fa-f]{2}|\\++(?:u00|x)[0-9A-Fa-f]{2}"
_ELLIPSIS = rb"(?:\.\.\.|\xe2\x80\xa6)"
_SECRET = rb"(?:[0-9A-Za-z_+/=-]|%b)" % _ESCAPED
_WRAPPED = rb"(?:%b|(?:\\++[rn]|[\r\n])(?=[A-Za-z0-9+/=]{4}))" % _SECRET
_QUOTED = rb"""(?:(?!(?P=quote))(?:[^"\\]|(?:\\\\)*+\\.|(?:\\\\)++(?!["\\])))++"""
_NOT_DONE = rb"(?![\[({]{0,3}?(?:(?:bearer|basic|digest)(?:\s|\+)++)?\[redacted\])"
# What the server itself says of a setting whose name is that of a secret: the operator must read it.
_NOT_OURS = (
    rb"(?!the secret in (?:file|environment variable) |needs (?:at least|exactly) |must be (?:a|at) "
    rb"|is required|there is no file )"
)
_PLAIN = rb"""(?:(?:bearer|basic|digest)(?:\s|\+)++)?(?:[^&\s"'\\;,}\])]|%b)++""" % _ESCAPED
# A double quote behind an even number of backslashes ends the JSON string: only behind a bare key it opens a value.
_QUOTE = rb"""(?P<quote>\\*+'|(?:\\\\)*+\\")"""
_QUOTE_OR_BARE = rb"""(?P<quote>\\*+'|(?:\\\\)*+\\"|(?(bare)"|(?!)))"""

# A word without capital or digit after "basic" is prose.
BEARER = re.compile(
    rb"\b((?i:bearer|basic)(?:\s|%%20|\+)++)(?=[a-z._~+/=%%-]{0,200}+[A-Z0-9])(?:[A-Za-z0-9._~+/=-]|%b){6,}+" % _ESCAPED
)
JWT = re.compile(
    rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.(?:[A-Za-z0-9_-]|%b)*+)?" % _ESCAPED
)
PEM = re.compile(
    rb"""-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^"\\-]|\\.|-(?!----END))*+(?:-----END [A-Z ]{0,40}-----)?""",
    re.DOTALL,
)
DSN = re.compile(rb"""(://[^/\s:@"\\]{0,100}:)(?!\[redacted\])[^@/\s"\\]{1,200}@""")
# pydantic echoes the first and the last characters of a refused value.
ECHO = re.compile(rb"""(input_value=)(?!\[redacted\])(?:(?!, input_type=)(?:[^"\\]|\\.)){1,2000}+""", re.DOTALL)
# reprlib (asyncio's slow callbacks) and SQLAlchemy omit the middle, and with it the shape.
ELIDED = re.compile(rb"(truncated\) \.\.\. |\S%b(?=[a-z]*+[0-9A-Z])(?=[0-9A-Za-z]{8}))%b++" % (_ELLIPSIS, _WRAPPED))
# These headers hold several pairs; all of them go.
COOKIE = re.compile(
    rb"""(?i)((?<![0-9a-z])(?:cookie|stripe[_-]signature)\s{0,8}+[:=]\s{0,8}+)(?!\[redacted\])(?:[^"'\\]|%b)++"""
    % _ESCAPED
)

_ESCAPE = re.compile(rb"%(?:25)*([2-7][0-9A-Fa-f]|0[AaDd])|(?<!\\)\\++(?:u00|x)([2-7][0-9A-Fa-f])")
_WRAP = re.compile(rb"(?<=[A-Za-z0-9+/]{60})(?:\\++r|\r)?(?:\\++n|\n)(?=[A-Za-z0-9+/=])")
_IN_JSON = {0x22: b'\\"', 0x5C: b"\\\\", 0x0A: b"\\n", 0x0D: b"\\r"}
_UNESCAPED = {f"{code:02x}".encode(): _IN_JSON.get(code, bytes([code])) for code in (0x0A, 0x0D, *range(0x20, 0x7F))}
_ROUNDS = 4


def undo_escapes(line: bytes) -> bytes:
    """The line with percent-, JSON- and hex-escapes of printable characters and line breaks undone."""
    for _ in range(_ROUNDS):
        plain = _ESCAPE.sub(_character, line)
        if plain == line:
            break
        line = plain
    return line


def join_wrapped_lines(line: bytes) -> bytes:
    """The line with base64 that was written in lines of equal length, as in mail, joined."""
    return _WRAP.sub(b"", line)


def _character(match: re.Match[bytes]) -> bytes:
    return _UNESCAPED.get((match[1] or match[2]).lower(), match[0])


def shapes(prefixes: Iterable[str]) -> re.Pattern[bytes]:
    """In lower case, secrets that begin with one of the prefixes, whole, or shortened by leaving out the middle.

    Up to seven characters after the prefix, and four after an ellipsis, stay readable.
    """
    start = b"|".join(re.escape(prefix.lower().encode()) for prefix in prefixes)
    whole = rb"%b{8,}+(?:%b[0-9A-Za-z]++)?" % (_SECRET, _ELLIPSIS)
    shortened = rb"%b{0,7}%b[0-9A-Za-z]{5,}+" % (_SECRET, _ELLIPSIS)
    return re.compile(rb"(?:%b)(?:%b|%b)" % (start, whole, shortened))


def hex_shapes(prefixes: Iterable[str]) -> re.Pattern[bytes]:
    """The same written as hexadecimal digits."""
    start = b"|".join(prefix.lower().encode().hex().encode() for prefix in prefixes)
    return re.compile(rb"(?:%b)[0-9a-f]*+" % start)


def base64_shapes(prefixes: Iterable[str]) -> re.Pattern[bytes]:
    """The same inside base64, from the prefix on."""
    cores = {core for prefix in prefixes for core in base64_cores(prefix)}
    start = b"|".join(re.escape(core) for core in sorted(cores))
    return re.compile(rb"(?:%b)%b*+" % (start, _WRAPPED))


def base64_cores(text: str) -> set[bytes]:
    """The text that the base64 of anything with ``text`` in it must contain, for each of the three alignments."""
    cores = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + text.encode())
        first = -(-offset * 8 // 6)
        last = (offset + len(text)) * 8 // 6
        cores |= {encoded[first:last], encoded[first:last].translate(bytes.maketrans(b"+/", b"-_"))}
    return cores


def assignments(names: Iterable[str]) -> re.Pattern[bytes]:
    """``name=value``, ``"name": "value"`` and the like, in lower case; groups ``head``, ``bare``, ``quote``, ``plain``.

    ``db_password`` counts as ``password``; only ``token`` must be the whole name, because a page token is no secret.
    """
    return re.compile(
        rb"""(?s)(?P<head>%b(?:(?P<bare>")|\\*["'])?\s{0,8}+[:=]\s{0,8}+%b[\[({]{0,3}(?:b(?=\\*["']))?)(?:%b%b|(?P<plain>%b%b))"""
        % (_names(names), _NOT_DONE, _QUOTE_OR_BARE, _QUOTED, _NOT_OURS, _PLAIN)
    )


def header_fields(names: Iterable[str]) -> re.Pattern[bytes]:
    """``(b'name', b'value')`` or ``[…]``, as libraries hold headers, in lower case; groups ``head`` and ``quote``."""
    return re.compile(
        rb"""(?s)(?P<head>[(\[]b?\\*["'](?:[0-9a-z]{1,20}[_-]){0,4}%b\\*["'],\s?b?)%b%b"""
        % (_names(names), _QUOTE, _QUOTED)
    )


def _names(names: Iterable[str]) -> bytes:
    """One of the names, lower case with ``_``, which may be ``-`` or left out.

    Begins with plain characters, not with a look-behind: only so can the engine skip to where a match may start."""
    by_first: dict[str, list[str]] = {}
    for name in sorted(names):
        by_first.setdefault(name[0], []).append(name[1:])
    branches = []
    for first, rests in by_first.items():
        ends = b"|".join(
            re.escape(rest).replace("_", "[_-]?").encode() + (rb"(?<![_-]token)" if first + rest == "token" else b"")
            for rest in rests
        )
        branches.append(rb"%b(?<![0-9a-z]%b)(?:%b)" % (*(re.escape(first).encode(),) * 2, ends))
    return rb"(?:%b)" % b"|".join(branches)
