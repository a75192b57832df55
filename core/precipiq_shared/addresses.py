"""What counts as one client: addresses as counters know them. Pure functions."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

UNKNOWN = "unknown"
"""All clients whose address cannot be told."""

_MAPPED = bytes(10) + b"\xff\xff"
_NETWORK_SIZE = 8


def counted_address(address: str | None) -> str:
    """IPv4 by itself, IPv6 by its /64: that is what one customer has at the least, and may choose from freely.

    IPv4 that is mapped into IPv6 (RFC 4291 section 2.5.5.2) is IPv4, in each of its spellings. A zone id (RFC 4007) is
    ignored. What is no address is ``UNKNOWN``. At most 24 characters.
    """
    # With socket, as ipaddress takes ten times as long: this runs for whoever asks, before any limit.
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
