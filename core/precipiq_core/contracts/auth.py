"""Who may do what: principals, scopes, authenticators and rate limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from precipiq_core.contracts.chain import Chain
from precipiq_core.contracts.credential import Credential

Scope: TypeAlias = Literal["write", "read", "export", "admin"]

SCOPES: tuple[Scope, ...] = ("write", "read", "export", "admin")

RateGroup: TypeAlias = Literal["write", "batch", "read"]
"""Which counter a request counts against; each (organisation, environment) has its own of each."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: a verified key. ``expires_at_us``: microseconds since the epoch, None: never."""

    chain: Chain
    key_id: str
    scopes: frozenset[Scope]
    expires_at_us: int | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


class Authenticator(Protocol):
    """Turns a credential into a principal. Contributed through the hook ``authenticators``; asked in boot order."""

    async def authenticate(self, credential: Credential) -> Principal | None:
        """The principal, or None when this authenticator does not accept it, for whatever reason.

        MUST take the same time for every refusal as far as it can. Raises ``Unavailable`` when it cannot tell.
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
    """Counts requests per organisation and environment. A capability; core asks it after authentication."""

    async def hit(self, chain: Chain, group: RateGroup) -> RateState:
        """Count one request and say whether it is within the limit."""
        ...
