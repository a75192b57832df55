"""Generated requests: plain ones, odd ones, and plain ones with a fault; several on a connection, cut anywhere."""

from __future__ import annotations

from random import Random

METHODS = [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"]
ODD_METHODS = [b"CONNECT", b"TRACE", b"get", b"PRI", b"G(T", b""]
ODD_TARGETS = [b"*", b"http://other/x", b"x", b"/\xc3\xa4", b"/a b", b"", b"//x//", b"/%zz%2f", b"/a?b?c#d", b"/\x7f"]
VERSIONS = [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11"]
FIELDS = [
    b"accept: */*",
    b"User-Agent: x/1 (y; z)",
    b"x-empty:",
    b"x-tabs:\t a\tb \t",
    b"Connection: keep-alive",
    b"x-same: 1",
    b"x-same: 2",
    b"keep-alive: timeout=5",
    b"!#$%&'*+-.^_`|~: token",
]
ODD_FIELDS = [
    b"connection: close",
    b"Connection: Upgrade",
    b"connection: keep-alive, close",
    b"upgrade: websocket",
    b"upgrade: h2c",
    b"expect: 100-continue",
    b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"Transfer-Encoding : chunked",
    b"te: trailers",
    b"content-length: 0",
    b"content-length: 3",
    b"content-length: +3",
    b"content-length: 3, 3",
    b"content-length: 0x3",
    b"content-length:",
    b"content-length: 9999999999999999999",
    b"content-length : 3",
    b"host: other",
    b" folded: value",
    b"\tfolded",
    b"x-high: \xc3\xa4",
    b"x-nul: a\0b",
    b"x-cr: a\rb",
    b"x-lf: a\nb: c",
    b"x-vt: a\x0bb",
    b"x-del: a\x7fb",
    b"x-control: \x01",
    b"no colon",
    b": no name",
    b"na me: value",
    b"n\xc3\xa4me: value",
    b"x-long: " + b"a" * 2000,
    b"",
]
BODIES = [b"", b"abc", b"GET / HTTP/1.1\r\nhost: smuggled\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"x" * 300]
NOISE = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"\t", b"0", b"/"]


def request(random: Random, shapes: list[bytes], odd: float) -> bytes:
    """One request; every part of it is odd with that probability. ``shapes``: targets of the application."""
    is_odd = lambda: random.random() < odd  # noqa: E731
    method = random.choice(ODD_METHODS if is_odd() else METHODS)
    target = random.choice(ODD_TARGETS if is_odd() else shapes)
    version = random.choice(VERSIONS) if is_odd() else b"HTTP/1.1"
    body = random.choice(BODIES)
    fields = [] if is_odd() else [random.choice([b"host: test", b"Host:test", b"HOST: "])]
    if body or random.random() < 0.3:
        fields.append(b"content-length: %d" % (len(body) + (random.choice([-1, 1, 5]) if is_odd() else 0)))
    fields += random.sample(FIELDS, random.randrange(4))
    if is_odd():
        fields.append(random.choice(ODD_FIELDS))
    random.shuffle(fields)
    if is_odd() and fields:
        fields.append(random.choice(fields))
    end = b"\n" if is_odd() else b"\r\n"
    return b"%b %b %b" % (method, target, version) + end + b"".join(one + end for one in fields) + end + body


def connection(random: Random, shapes: list[bytes]) -> list[bytes]:
    """What one client sends, in the pieces in which it comes."""
    odd = random.choice([0.0, 0.0, 0.03, 0.15])
    data = b"".join(request(random, shapes, odd) for _ in range(random.choice([1, 1, 2, 3])))
    if random.random() < 0.2:
        at = random.randrange(len(data))
        data = data[:at] + random.choice([b"", random.choice(NOISE)]) + data[at + random.randrange(2) :]
    if random.random() < 0.1:
        data = data[: random.randrange(len(data)) + 1]
    cuts = sorted(random.sample(range(len(data) + 1), min(len(data), random.choice([0, 0, 1, 1, 2, 5]))))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]
