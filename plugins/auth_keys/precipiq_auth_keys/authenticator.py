"""From a key to a principal, normally without a database read: verified keys are cached until any key changes."""

from __future__ import annotations

from dataclasses import dataclass

from precipiq_auth_keys.key_trust import KeyTrust
from precipiq_auth_keys.secret_format import is_well_formed
from precipiq_auth_keys.store import KeyRecord, KeyStore
from precipiq_contracts.auth import Principal
from precipiq_contracts.clock import Clock
from precipiq_contracts.credential import Credential

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class _Known:
    """A cached hash: its key and principal, or None when no key has that hash."""

    record: KeyRecord | None
    principal: Principal | None


class KeyAuthenticator:
    """Accepts API keys of this deployment.

    ``fresh_s``: how long the cache may be used without news from the database. The watcher calls
    :meth:`note_unchanged` after each successful look, and :meth:`forget` when something changed.
    """

    def __init__(self, store: KeyStore, trust: KeyTrust, clock: Clock, *, cached_keys_max: int, fresh_s: float) -> None:
        self._store = store
        self._trust = trust
        self._clock = clock
        self._cached_keys_max = cached_keys_max
        self._fresh_s = fresh_s
        self._fresh_until_s = 0.0
        self._generation = 0
        self._cache: dict[str, _Known] = {}
        self._last_used_us: dict[str, int] = {}

    async def authenticate(self, credential: Credential) -> Principal | None:
        """See ``precipiq_contracts.auth.Authenticator``."""
        if self._clock.monotonic_s() > self._fresh_until_s:
            self.forget()
        secret_hash = credential.digest.hex()  # as ``key_hash`` gives it
        known = self._cache.get(secret_hash)
        if known is None:
            if not is_well_formed(credential.reveal()):
                return None
            known = await self._look_up(secret_hash)
        if known.record is None:
            return None
        now_us = self._clock.now_us()
        if not known.record.is_active(now_us):
            return None
        self._last_used_us[known.record.key_id] = now_us
        return known.principal

    def forget(self) -> None:
        """Empty the cache; a lookup that runs now does not enter it either."""
        self._generation += 1
        self._cache.clear()

    def note_unchanged(self, asked_at_s: float) -> None:
        """Trust the cache for another ``fresh_s``: the database, asked at ``asked_at_s``, had no change."""
        self._fresh_until_s = asked_at_s + self._fresh_s

    def take_last_used(self) -> dict[str, int]:
        """Key id -> when it was last accepted, in microseconds, since this was last asked."""
        taken, self._last_used_us = self._last_used_us, {}
        return taken

    async def _look_up(self, secret_hash: str) -> _Known:
        generation = self._generation
        record = await self._store.key_by_hash(secret_hash)
        if record is not None and not await self._trust.counts(record):
            record = None
        known = _Known(record, None if record is None else _principal(record))
        if generation == self._generation and self._clock.monotonic_s() <= self._fresh_until_s:
            if len(self._cache) >= self._cached_keys_max:
                del self._cache[next(iter(self._cache))]
            self._cache[secret_hash] = known
        return known


def _principal(record: KeyRecord) -> Principal:
    scopes = frozenset(record.scopes)
    return Principal(record.chain, record.key_id, scopes, record.expires_us, record.revoked_us)
