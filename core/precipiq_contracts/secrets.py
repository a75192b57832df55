"""Keys derived from the deployment's master key."""

from __future__ import annotations

from typing import Protocol


class MasterKey(Protocol):
    """Capability: derives keys, so that no other private key need reach the disk."""

    def derive(self, purpose: str) -> bytes:
        """32 bytes for that purpose (HKDF-SHA256, RFC 5869); the same purpose gives the same bytes."""
        ...
