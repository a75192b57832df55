"""The client's address and scheme behind named proxies: the right-most hop that is not one of ours.

A client that connects directly cannot claim an address: the fields are read only when the peer is a trusted proxy. A
proxy writes ``Forwarded`` (RFC 7239), or ``X-Forwarded-For`` and ``X-Forwarded-Proto``, and may pass on the client's
own version of the others. So where a request has both, an address or a scheme counts only if both agree on it; else the
client is the proxy that connects, and the scheme its connection's. A client can thus hide behind its proxy's address,
but never take another address. A proxy that removes the fields it does not write prevents that too. A proxy that writes
neither must not be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOPS_MAX = 32
_FORWARDED_LENGTH_MAX = 8192
"""Characters read from the end of Forwarded: a client may send tens of kilobytes before the proxy's own element."""

_FORWARDED, _X_FOR, _X_PROTO = b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}

# IPv4 or IPv6 in brackets, with or without a port, which may be obfuscated (RFC 7239 section 6); or IPv6 as it is. No
# zone id: it is free text of the sender's own, which would reach the logs.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[\w.-]+))?|([0-9A-Fa-f:.]+)", re.ASCII)

# One pair of an element (RFC 7239 section 4), or none between two semicolons. A value may do without the quotes that it
# needs: many proxies write ``for=192.0.2.1:80``. Possessive, so that no text takes longer than its length.
_PAIR = re.compile(r'\s*+(?:([\w!#$%&\'*+.^`|~-]++)=(?:"((?:[^"\\]|\\.)*+)"|([^\s",;\\]*+)))?+\s*+(?:;|$)', re.ASCII)


@dataclass(frozen=True, slots=True)
class _Claim:
    """The address and the scheme in one kind of field; None: no valid one."""

    client: Address | None = None
    is_secure: bool | None = None


class TrustedProxies:
    """Replaces ``client`` and ``scheme`` in a copy of the scope when a trusted proxy says so."""

    def __init__(self, app: ASGIApp, networks: Sequence[Network]) -> None:
        self._app = app
        self._networks = tuple(networks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._networks and scope["type"] in ("http", "websocket"):
            client = scope.get("client")
            if client and self._is_trusted(_address(client[0])):
                scope = self._believe(scope)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> Scope:
        fields = _fields(scope)
        claims = []
        if _FORWARDED in fields:
            claims.append(self._read_forwarded(fields[_FORWARDED]))
        if _X_FOR in fields or _X_PROTO in fields:
            claims.append(self._read_x_forwarded(fields))
        changed = dict(scope)
        clients, schemes = {claim.client for claim in claims}, {claim.is_secure for claim in claims}
        if len(clients) == 1 and (client := clients.pop()) is not None:
            changed["client"] = (str(client), 0)
        if len(schemes) == 1 and (is_secure := schemes.pop()) is not None:
            plain = "ws" if scope["type"] == "websocket" else "http"
            changed["scheme"] = f"{plain}s" if is_secure else plain
        return changed

    def _read_x_forwarded(self, fields: Mapping[bytes, str]) -> _Claim:
        client = None
        for hop in _hops(fields.get(_X_FOR, "")):
            address = _address(hop.strip('"'))
            client = address or client
            if not self._is_trusted(address):
                break
        return _Claim(client, _SECURE.get(fields.get(_X_PROTO, "").rpartition(",")[2].strip().lower()))

    def _read_forwarded(self, field: str) -> _Claim:
        """The scheme is that of the same element: the hop that wrote the address wrote it, too."""
        client = is_secure = None
        for element in _elements(field):
            pairs = _pairs(element)
            if pairs is None:
                break
            address = _address(pairs.get("for", ""))
            client, is_secure = address or client, _SECURE.get(pairs.get("proto", "").lower())
            if not self._is_trusted(address):
                break
        return _Claim(client, is_secure)

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(
            address in network for network in self._networks if network.version == address.version
        )


def _fields(scope: Scope) -> dict[bytes, str]:
    """The fields that this module reads; fields of one name are joined to a list (RFC 9110 section 5.3)."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in (_FORWARDED, _X_FOR, _X_PROTO):
            text = value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def _hops(field: str) -> Iterator[str]:
    """The hops of X-Forwarded-For, the last first, without empty ones."""
    for hop in reversed(field.rsplit(",", _HOPS_MAX)[-_HOPS_MAX:]):
        if hop := hop.strip():
            yield hop


def _elements(field: str) -> Iterator[str]:
    """The elements of Forwarded, the last first, without empty ones.

    The field is read backwards: the text left of the proxies' elements comes from the client, and an open quote there
    must not swallow them. Read so, a well-formed quoted string ends where it began, regardless of the text before it.
    """
    is_cut = len(field) > _FORWARDED_LENGTH_MAX
    field = field[-_FORWARDED_LENGTH_MAX:]
    end = len(field)
    for _ in range(_HOPS_MAX):
        if end < 0:
            return
        start = _element_start(field, end)
        if start == 0 and is_cut:  # the rest of one
            return
        if element := field[start:end].strip():
            yield element
        end = start - 1


def _element_start(field: str, end: int) -> int:
    while True:
        quote = field.rfind('"', 0, end)
        comma = field.rfind(",", quote + 1, end)
        if comma >= 0 or quote < 0:
            return comma + 1
        end = _opening_quote(field, quote)
        if end < 0:
            return 0


def _opening_quote(field: str, closing: int) -> int:
    """Where the quoted string begins that ends at ``closing``; -1: nowhere. Quotes within it are escaped."""
    quote = closing
    while (quote := field.rfind('"', 0, quote)) >= 0:
        before = quote
        while before > 0 and field[before - 1] == "\\":
            before -= 1
        if (quote - before) % 2 == 0:
            break
    return quote


def _pairs(element: str) -> dict[str, str] | None:
    """Name in lower case -> value of one element; None when it is malformed, or has a name twice."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(element):
        match = _PAIR.match(element, at)
        if match is None:
            return None
        at = match.end()
        name, quoted, plain = match.groups()
        if name is None:
            continue
        if name.lower() in pairs:
            return None
        pairs[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return pairs


def _address(node: str) -> Address | None:
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    try:
        address = ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
