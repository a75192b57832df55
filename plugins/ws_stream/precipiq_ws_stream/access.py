"""Whether a key's streams may go on: checked again and again, once for all streams of the key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from precipiq_contracts.auth import Principal
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import Unavailable
from precipiq_ws_stream.endings import FORBIDDEN, KEY_EXPIRED, KEY_REVOKED, Ending

TRUSTED_S = 0.9
"""How long a check counts. An authenticator may answer from a cache of up to 4 s while its database is away;
a revocation takes effect within 5 s all the same."""

_RETRY_PAUSE_S = 0.25
_CHECKS_AT_ONCE_MAX = 50

log = structlog.get_logger("precipiq.ws_stream")

Recheck = Callable[[], Awaitable[Principal | None]]


class KeyAccess:
    """One key, and the reason why its streams must end, if they must; the reason calls ``on_ending`` at once."""

    def __init__(
        self, principal: Principal, recheck: Recheck, clock: Clock, on_ending: Callable[[KeyAccess], None] | None = None
    ) -> None:
        self._on_ending = on_ending
        self.users = 0
        self.ending: Ending | None = None
        self._principal = principal
        self._recheck = recheck
        self._clock = clock
        self._checked_s = clock.monotonic_s()
        self._checking = asyncio.Lock()

    @property
    def is_fresh(self) -> bool:
        """Whether entries may be sent without another check."""
        return self.ending is None and self._clock.monotonic_s() - self._checked_s <= TRUSTED_S

    async def check(self) -> Ending | None:
        """Check the key once. Raises ``Unavailable``."""
        if self.ending is None:
            asked_s = self._clock.monotonic_s()
            principal = await self._recheck()
            if principal is None:
                self.ending = KEY_EXPIRED if self._has_expired() else KEY_REVOKED
            elif principal.chain != self._principal.chain:
                self.ending = KEY_REVOKED
            elif not principal.may("read"):
                self.ending = FORBIDDEN
            else:
                self._principal = principal
                self._checked_s = asked_s
            if self.ending is not None and self._on_ending is not None:
                self._on_ending(self)
        return self.ending

    async def wait_until_fresh(self) -> None:
        """Wait until a check finds the key good. Never returns for a bad key, whose streams end."""
        async with self._checking:
            while not self.is_fresh:
                try:
                    if await self.check() is not None:
                        await asyncio.Event().wait()
                except Unavailable:
                    await asyncio.sleep(_RETRY_PAUSE_S)

    def _has_expired(self) -> bool:
        expires_at_us = self._principal.expires_at_us
        return expires_at_us is not None and expires_at_us <= self._clock.now_us()


class Keys:
    """The keys with open streams. ``on_ending`` is called with each key whose streams must end."""

    def __init__(self, clock: Clock, on_ending: Callable[[KeyAccess], None]) -> None:
        self._clock = clock
        self._on_ending = on_ending
        self._by_id: dict[tuple[Chain, str, bytes], KeyAccess] = {}

    @contextmanager
    def use(self, principal: Principal, credential_id: bytes, recheck: Recheck) -> Iterator[KeyAccess]:
        """Lend the access of that key while the context is entered. ``credential_id`` names one of its credentials."""
        key = (principal.chain, principal.key_id, credential_id)
        access = self._by_id.get(key)
        if access is None or access.ending is not None:
            access = self._by_id[key] = KeyAccess(principal, recheck, self._clock, self._on_ending)
        access.users += 1
        try:
            yield access
        finally:
            access.users -= 1
            if not access.users and self._by_id.get(key) is access:
                del self._by_id[key]

    async def check(self) -> None:
        """Check all keys once."""
        keys = list(self._by_id.values())
        for start in range(0, len(keys), _CHECKS_AT_ONCE_MAX):
            await asyncio.gather(*map(self._check, keys[start : start + _CHECKS_AT_ONCE_MAX]))

    async def _check(self, access: KeyAccess) -> None:
        try:
            await access.check()
        except Unavailable:
            pass  # entries wait until a check succeeds
        except Exception as error:
            log.exception("a key cannot be checked", error=type(error).__name__)
