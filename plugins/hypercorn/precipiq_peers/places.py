"""How many places the clients of each address hold: connections, and requests at the same time on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network

from precipiq_peers.proxies import Network

_IPV6_PREFIX_BITS = 64
"""The smallest network that one customer gets: all its addresses count as one."""


class Limit(StrEnum):
    """The limit that leaves no place."""

    TOTAL = "connections_max"
    ADDRESS = "connections_per_address_max"


class Places:
    """``per_address_max`` does not bind the addresses of ``trusted``: proxies, behind which are many clients."""

    def __init__(self, total_max: int, per_address_max: int, trusted: Sequence[Network] = ()) -> None:
        self.total_max = total_max
        self.per_address_max = per_address_max
        self._trusted = tuple(trusted)
        self._held: dict[str, int] = {}
        self.count = 0

    def peer_of(self, address: str) -> str:
        """Whose places a connection from that address takes; "" for one that only the total binds."""
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return ""  # no address of the internet: a local socket
        if isinstance(parsed, IPv6Address):
            parsed = parsed.ipv4_mapped or parsed
        if any(parsed in network for network in self._trusted if network.version == parsed.version):
            return ""
        return str(parsed if parsed.version == 4 else ip_network((int(parsed), _IPV6_PREFIX_BITS), strict=False))

    def take(self, peer: str, *, is_replacing: bool = False) -> Limit | None:
        """Take a place, to be given back by :meth:`give_back`; or the limit that leaves none.

        ``is_replacing``: another is about to be given back for it.
        """
        held = self._held.get(peer, 0)
        if peer and held >= self.per_address_max:
            return Limit.ADDRESS
        if self.count >= self.total_max and not is_replacing:
            return Limit.TOTAL
        self.count += 1
        self._held[peer] = held + 1
        return None

    def give_back(self, peer: str) -> None:
        """Free one of that peer's places."""
        self.count -= 1
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]
