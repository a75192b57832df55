"""The client's address and scheme behind named proxies: the right-most hop that is not one of ours.

Whoever connects directly cannot claim anything: the fields are read only when the peer is a trusted proxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

Network = IPv4Network | IPv6Network

_HOPS_MAX = 32


class TrustedProxies:
    """Replaces ``client`` and ``scheme`` in a copy of the scope when a trusted proxy says so."""

    def __init__(self, app: ASGIApp, networks: Sequence[Network]) -> None:
        self._app = app
        self._networks = tuple(networks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._networks and scope["type"] in ("http", "websocket"):
            client = scope.get("client")
            if client and self._is_trusted(client[0]):
                scope = self._believed(scope)
        await self._app(scope, receive, send)

    def _believed(self, scope: Scope) -> Scope:
        changed = dict(scope)
        hops = [hop.strip() for hop in _field(scope, b"x-forwarded-for").split(",") if hop.strip()]
        for hop in reversed(hops[-_HOPS_MAX:]):
            address = _address(hop)
            if address is None:
                break
            changed["client"] = (str(address), 0)
            if not self._is_trusted(str(address)):
                break
        scheme = _field(scope, b"x-forwarded-proto").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            secure = scheme == "https"
            websocket = scope["type"] == "websocket"
            changed["scheme"] = ("wss" if secure else "ws") if websocket else scheme
        return changed

    def _is_trusted(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(
            address in network for network in self._networks if network.version == address.version
        )


def _field(scope: Scope, name: bytes) -> str:
    """All fields of that name as one list, as RFC 9110 section 5.3 joins them."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:  # free text of the sender's own, which would reach the logs
            return None
        return address.ipv4_mapped or address
    return address
