"""Secrets at rest, wrapped under a master key that only a vault holds; and keys that are derived, so never at rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

SECRET_BYTES_MAX = 4096
"""The largest secret that every vault must be able to wrap."""

Context: TypeAlias = Mapping[str, str]
"""The associated data of a wrapped secret: organisation, id, purpose. Not secret; may be logged."""


class VaultAccess(Protocol):
    """The vault for a separate process: synchronous, used in that process alone.

    MUST be picklable; a pickled one MUST NOT hold a master key. Raises as :class:`KeyVault` does.
    """

    def wrap(self, secret: bytes, context: Context) -> bytes: ...

    def unwrap(self, wrapped: bytes, context: Context) -> bytes: ...


class KeyVault(Protocol):
    """Capability: wraps and unwraps small secrets. One plugin of a deployment provides it.

    A wrapped secret names the master key that it was wrapped under. No method brings a master key into the calling
    process. Every method raises ``Unavailable`` when the vault cannot be reached or has no master key.
    """

    async def wrap(self, secret: bytes, context: Context) -> bytes:
        """The secret (1 to ``SECRET_BYTES_MAX`` bytes) wrapped under the newest master key, for storing."""
        ...

    async def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """The secret. Raises ``VaultRefused``: altered, for another context, or under a master key that is not held."""
        ...

    async def rewrap(self, wrapped: bytes, context: Context) -> bytes:
        """Wrapped anew under the newest master key; the plain secret never reaches this process. As :meth:`unwrap`."""
        ...

    def is_current(self, wrapped: bytes) -> bool:
        """Whether it is wrapped under the newest master key, as far as the vault can decide without unwrapping it."""
        ...

    async def check(self) -> str:
        """Wrap and unwrap a test value; returns a sentence about the vault for the operator, without a secret in it."""
        ...

    def access(self) -> VaultAccess:
        """The vault for another process: a signing process unwraps keys that must never be plain in this one."""
        ...


@dataclass(frozen=True, slots=True)
class WrappedSecret:
    """A wrapped secret that a plugin stores. ``ref``: its id in that storage."""

    ref: str
    wrapped: bytes
    context: Context


class WrappedSecrets(Protocol):
    """The wrapped secrets that a plugin stores: a value of the hook ``wrapped_secrets``, for ``precipiq vault``."""

    @property
    def name(self) -> str:
        """Unique; shown to the operator, such as ``export signing keys``."""
        ...

    def all(self) -> AsyncIterator[WrappedSecret]:
        """Every stored secret, of all tenants."""
        ...

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        """Replace the stored value with ``wrapped``; False when it changed meanwhile."""
        ...


class MasterKey(Protocol):
    """Capability: derives keys, so that no other private key need reach the disk."""

    def derive(self, purpose: str) -> bytes:
        """32 bytes for that purpose (HKDF-SHA256, RFC 5869); the same purpose gives the same bytes."""
        ...
