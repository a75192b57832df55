"""Secrets at rest: wrapped under a master key that only a vault knows, bound to what they are for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

SECRET_BYTES_MAX = 4096
"""What every vault can wrap at least, and callers may count on."""

Context: TypeAlias = Mapping[str, str]
"""What a wrapped secret is bound to (associated data): organisation, id, purpose. Not secret; may be logged."""


class VaultAccess(Protocol):
    """A vault as a process of its own uses it: synchronous, and in that process alone.

    MUST be picklable; a pickled one MUST NOT hold a master key. Raises as :class:`KeyVault` does.
    """

    def wrap(self, secret: bytes, context: Context) -> bytes: ...

    def unwrap(self, wrapped: bytes, context: Context) -> bytes: ...


class KeyVault(Protocol):
    """Capability: wraps and unwraps small secrets. One plugin of a deployment provides it.

    What a vault wraps says under which master key it was wrapped. No method brings a master key into the process that
    calls it. Every method raises ``Unavailable`` when the vault cannot be reached or has no master key.
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
        """Whether it is wrapped under the newest master key, as far as can be told without unwrapping it."""
        ...

    async def check(self) -> str:
        """Wrap and unwrap something; a sentence about the vault for the operator, without a secret in it."""
        ...

    def access(self) -> VaultAccess:
        """The vault for another process: a signing process unwraps there what must never be seen here."""
        ...


@dataclass(frozen=True, slots=True)
class WrappedSecret:
    """A wrapped secret where a plugin keeps it. ``ref``: finds it there again."""

    ref: str
    wrapped: bytes
    context: Context


class WrappedSecrets(Protocol):
    """The wrapped secrets that a plugin stores; what the hook ``wrapped_secrets`` gives, for ``precipiq vault``."""

    @property
    def name(self) -> str:
        """Unique; shown to the operator, such as ``export signing keys``."""
        ...

    def all(self) -> AsyncIterator[WrappedSecret]:
        """Every one that is stored, of all tenants."""
        ...

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        """Store what was wrapped anew in its place; False when it changed meanwhile."""
        ...
