"""Keeps this process's view of keys current, writes keys' last use, and retries events that could not be sealed."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from precipiq_auth_keys.authenticator import KeyAuthenticator
from precipiq_auth_keys.service import KeyService
from precipiq_auth_keys.store import KeyStore
from precipiq_contracts.background import Background
from precipiq_contracts.clock import Clock


class KeyWatcher:
    """Polls the change count every ``poll_s``; another process's change empties the cache."""

    def __init__(
        self,
        store: KeyStore,
        service: KeyService,
        authenticator: KeyAuthenticator,
        clock: Clock,
        *,
        poll_s: float,
        last_used_interval_s: float,
    ) -> None:
        self._store = store
        self._service = service
        self._authenticator = authenticator
        self._clock = clock
        self._poll_s = poll_s
        self._last_used_interval_s = last_used_interval_s
        self._seen_count = -1
        self._next_touch_s = clock.monotonic_s() + last_used_interval_s

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Watch while the context is entered; at its end, write the last uses not yet stored."""
        return background(
            "auth_keys.keys",
            self._watch,
            every_s=self._poll_s,
            failing="keys cannot be looked at",
            again="keys can be looked at again",
            final=self.write_last_used,
        )

    async def _watch(self) -> None:
        await self.look()
        await self._service.deliver_events()
        if self._clock.monotonic_s() >= self._next_touch_s:
            await self.write_last_used()

    async def look(self) -> None:
        """Ask the database once whether any key changed."""
        asked_at_s = self._clock.monotonic_s()
        count = await self._store.change_count()
        if count != self._seen_count:
            self._authenticator.forget()
            self._seen_count = count
        self._authenticator.note_unchanged(asked_at_s)

    async def write_last_used(self) -> None:
        """Store when keys were last used."""
        self._next_touch_s = self._clock.monotonic_s() + self._last_used_interval_s
        last_used_us = self._authenticator.take_last_used()
        if last_used_us:
            await self._store.touch(last_used_us)
