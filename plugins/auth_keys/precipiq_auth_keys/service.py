"""Keys: made, listed, rotated, revoked; each event recorded in the chain. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from precipiq_auth_keys.errors import KeyNotActive, TooManyKeys
from precipiq_auth_keys.key_trust import KeyTrust, fingerprint_of
from precipiq_auth_keys.kinds import KEY_CREATED, KEY_REVOKED, KEY_ROTATED
from precipiq_auth_keys.secret_format import RANDOM_BYTES, base62, key_hash, make_key
from precipiq_auth_keys.store import KeyRecord, KeyStore, Organisation
from precipiq_contracts.auth import SCOPES, Scope
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.clock import Clock, Randomness, format_moment, uuid7
from precipiq_contracts.errors import NotFound, Unavailable, ValidationFailed
from precipiq_contracts.ledger import Ledger
from precipiq_core.outbox import OutboxEvent

_SECOND_US = 1_000_000
_ATTEMPTS = range(3)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. ``secret``: the key itself, to be shown once."""

    record: KeyRecord
    secret: str

    def __repr__(self) -> str:
        return f"NewKey({self.record.key_id})"


class KeyService:
    """The operations on organisations and keys. Each change of a key calls ``on_change``.

    ``active_max``: active keys of one chain; those that are made at the same moment may be a few more.
    """

    def __init__(
        self,
        store: KeyStore,
        ledger: Ledger,
        trust: KeyTrust,
        clock: Clock,
        randomness: Randomness,
        *,
        active_max: int = 1000,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        self._randomness = randomness
        self._active_max = active_max
        self.on_change: Callable[[], None] = lambda: None

    async def create_organisation(self, name: str) -> Organisation:
        organisation = Organisation(self._id("org"), name, self._clock.now_us())
        await self._store.add_organisation(organisation)
        return organisation

    async def create_first_organisation(self, name: str) -> Organisation | None:
        """Make an organisation and give it, or None when there is one already."""
        if await self._store.organisations():
            return None
        organisation = Organisation(self._id("org"), name, self._clock.now_us())
        return organisation if await self._store.add_first_organisation(organisation) else None

    async def organisations(self) -> list[Organisation]:
        return await self._store.organisations()

    async def create_key(
        self, org_id: str, environment: Environment, scopes: Sequence[Scope], expires_us: int | None, actor: str
    ) -> NewKey:
        """Make a key.

        Raises ``NotFound`` for an unknown organisation, ``ValidationFailed`` for a past expiry, and ``TooManyKeys``.
        """
        if not await self._store.has_organisation(org_id):
            raise NotFound("there is no such organisation")
        if expires_us is not None and expires_us <= self._clock.now_us():
            raise ValidationFailed(details={"expires_at": ["must lie in the future"]})
        await self._refuse_too_many(Chain(org_id, environment))
        new = self._make(Chain(org_id, environment), scopes, expires_us)
        body = {"key_id": new.record.key_id, **_describe(new.record)}
        await self._store.add_key(new.record, self._event(new.record.chain, KEY_CREATED, actor, body))
        await self._announce_change()
        return new

    async def keys(self, chain: Chain) -> list[KeyRecord]:
        """All keys of that organisation and environment, newest first, ended ones included.

        Without rows that do not count, which an audit of the chain reports.
        """
        return await self._trust.counting(await self._store.keys(chain))

    async def rotate(self, chain: Chain, key_id: str, grace_s: int, actor: str) -> NewKey:
        """Replace a key; the old one ends after the grace. Raises ``NotFound``, ``KeyNotActive``, ``TooManyKeys``."""
        old = await self._store.key(chain, key_id)
        if old is None or not await self._trust.counts(old):  # a row that does not count must not be made to count
            raise NotFound
        now_us = self._clock.now_us()
        if not old.is_active(now_us) or old.replaced_by is not None:
            raise KeyNotActive
        if grace_s:  # the old one counts on beside the new one
            await self._refuse_too_many(chain)
        new = self._make(chain, old.scopes, old.expires_us)
        body = {"key_id": key_id, "new_key_id": new.record.key_id, "grace_seconds": grace_s, **_describe(new.record)}
        event = self._event(chain, KEY_ROTATED, actor, body)
        ends_us = now_us + grace_s * _SECOND_US
        if not await self._store.replace_key(old, ends_us, new.record, event, is_revoked=grace_s == 0):
            raise KeyNotActive
        await self._announce_change()
        return new

    async def revoke(self, chain: Chain, key_id: str, actor: str) -> KeyRecord:
        """End a key for good; revoking it again changes nothing. Raises ``NotFound``."""
        for _ in _ATTEMPTS:
            key = await self._store.key(chain, key_id)
            if key is None or not await self._trust.is_ours(key):  # a chain that cannot be read must not keep it alive
                raise NotFound
            event = self._event(chain, KEY_REVOKED, actor, {"key_id": key_id})
            if key.is_revoked or await self._store.revoke_key(key, self._clock.now_us(), event):
                await self._announce_change()
                return await self._store.key(chain, key_id) or key
        raise Unavailable("the key was changed meanwhile; try again")

    async def chain_of(self, key_id: str) -> Chain:
        """The chain of that key, for the operator's commands. Raises ``NotFound``."""
        key = await self._store.key_by_id(key_id)
        if key is None:
            raise NotFound("there is no such key")
        return key.chain

    async def deliver_events(self) -> None:
        """Seal the waiting events. An event that cannot be sealed now stays durable, and is tried again."""
        await self._store.events.deliver(self._ledger)

    async def _refuse_too_many(self, chain: Chain) -> None:
        if await self._store.open_count(chain, self._clock.now_us(), self._active_max) >= self._active_max:
            raise TooManyKeys

    async def _announce_change(self) -> None:
        self.on_change()
        await self.deliver_events()

    def _make(self, chain: Chain, scopes: Sequence[Scope], expires_us: int | None) -> NewKey:
        secret = make_key(chain.environment, self._randomness.bytes(RANDOM_BYTES))
        ordered = tuple(scope for scope in SCOPES if scope in scopes)
        now_us = self._clock.now_us()
        prefix = f"pq_{chain.environment}_"
        record = KeyRecord(
            self._id("key"),
            chain,
            prefix,
            secret[-4:],
            ordered,
            now_us,
            expires_us,
            revoked_us=None,
            replaced_by=None,
            last_used_us=None,
            secret_hash=key_hash(secret),
        )
        return NewKey(record, secret)

    def _event(self, chain: Chain, kind: str, actor: str, body: dict[str, object]) -> OutboxEvent:
        event_id = uuid7(self._clock.now_us(), self._randomness.bytes(10))
        return OutboxEvent(event_id, chain, kind, actor, body)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{base62(int.from_bytes(self._randomness.bytes(14), 'big'), 19)}"


def _describe(key: KeyRecord) -> dict[str, object]:
    return {
        "environment": key.chain.environment,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "fingerprint": fingerprint_of(key.secret_hash),
        "expires_at": format_moment(key.expires_us),
    }
