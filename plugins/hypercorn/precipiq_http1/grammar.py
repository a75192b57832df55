"""Which bytes are the head of a plain request: a part of what h11 accepts, and read as h11 reads it (RFC 9112).

A plain head has a usual method, a target that begins with a slash, HTTP/1.1, one Host, at most one Content-Length, and
fields of visible ASCII that change neither the framing nor the connection. One pass of a regular expression with
possessive parts decides, so no head takes longer than its length.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEAD = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) (/[\x21-\x7e]*+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e]*+\r\n)++)\r\n"
)
_LENGTH_DIGITS_MAX = 12

_FOR_H11 = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"http2-settings"))
"""Fields of a request that h11 shall read: they change what follows the head, or ask for another protocol."""


class Head(NamedTuple):
    """Header names are in lower case. ``end``: bytes of the head; ``body_bytes``: as declared, 0 without a length."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    end: int
    body_bytes: int


def parse_head(data: bytes, bytes_max: int) -> Head | None:
    """The head with which the data begin; None when it is not complete, longer than that, or not plain."""
    found = _HEAD.match(data)
    if found is None or found.end() > bytes_max:
        return None
    headers = []
    hosts, length = 0, None
    for line in found[3].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
                return None
            length = int(value)
        elif name in _FOR_H11 or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        headers.append((name, value))
    if hosts != 1:
        return None
    return Head(found[1].decode(), found[2], headers, found.end(), length or 0)
