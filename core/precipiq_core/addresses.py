"""The key of a client in counters per address. Pure functions."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

UNKNOWN = "unknown"
"""The key of all clients without a valid address."""

_MAPPED = bytes(10) + b"\xff\xff"
_NETWORK_SIZE = 8


def address_to_count(address: str | None) -> str:
    """The IPv4 address, or the IPv6 /64: providers give each customer at least a /64 to choose addresses from.

    IPv4 that is mapped into IPv6 (RFC 4291 section 2.5.5.2) is IPv4, in each of its spellings. A zone id (RFC 4007) is
    ignored. Any other text is ``UNKNOWN``. At most 24 characters.
    """
    # With socket, as ipaddress takes ten times as long: this runs for every request, before any limit.
    text = (address or "").partition("%")[0]
    try:
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        return UNKNOWN
    packed = packed.removeprefix(_MAPPED)
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    network = inet_ntop(AF_INET6, packed[:_NETWORK_SIZE] + bytes(_NETWORK_SIZE))
    return f"{network}/{_NETWORK_SIZE * 8}"
