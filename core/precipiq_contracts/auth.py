"""Who may do what: principals, scopes, authenticators and rate limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from precipiq_contracts.chain import Chain
from precipiq_contracts.credential import Credential

Scope: TypeAlias = Literal["write", "read", "export", "admin"]

SCOPES: tuple[Scope, ...] = ("write", "read", "export", "admin")

RateGroup: TypeAlias = Literal["write", "batch", "read"]
"""Which counter a request counts against; each (organisation, environment) has its own of each."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a verified key. Times in microseconds since the epoch; None: never.

    ``expires_at_us``: the end that the key was made with. ``revoked_at_us``: the end that a revocation or a rotation
    set; a rotation with a grace period sets it in the future. The key is valid until the earlier of the two.
    """

    chain: Chain
    key_id: str
    scopes: frozenset[Scope]
    expires_at_us: int | None = None
    revoked_at_us: int | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


class Authenticator(Protocol):
    """Turns a credential into a principal. Contributed by the hook ``authenticators``, called in boot order."""

    async def authenticate(self, credential: Credential) -> Principal | None:
        """The principal, or None when this authenticator does not accept the credential, for any reason.

        MUST take the same time for every refusal as far as it can. Raises ``Unavailable`` when it cannot decide.
        """
        ...


@dataclass(frozen=True, slots=True)
class RateState:
    """The state of one counter after a request. ``retry_after_s`` is 0 when the request was admitted."""

    policy: str
    quota: int
    window_s: int
    remaining: int
    reset_s: int
    retry_after_s: float


class RateLimiter(Protocol):
    """Counts requests per organisation and environment. A capability; core calls it after authentication."""

    async def hit(self, chain: Chain, group: RateGroup) -> RateState:
        """Count one request and say whether it is within the limit."""
        ...


class AddressLimiter(Protocol):
    """A capability: counts requests per client address, whatever their key, for endpoints without a key."""

    async def hit(self, name: str, address: str | None, quota: int, window_s: int) -> RateState:
        """Count one request and say whether it is within ``quota`` (at least 1) of any ``window_s`` seconds.

        ``name`` identifies the counter and is the state's ``policy``; the caller chooses it, never a client, and a
        counter has one ``window_s``. A refused request does not count. IPv6 counts by /64, IPv4 in IPv6 as IPv4; None
        and all invalid addresses share a count. ``reset_s``: whole seconds until the oldest counted request leaves
        the window. MUST NOT raise, even when the shared counter cannot be reached.
        """
        ...
