"""Stripe endpoints: made, given a secret, rolled, deleted; each of these recorded in the chain. Knows no HTTP."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from precipiq_billing import kinds
from precipiq_billing.endpoint_store import EndpointStore, StripeEndpoint, secret_fingerprint
from precipiq_billing.endpoint_trust import EndpointTrust
from precipiq_billing.errors import TooManyEndpoints
from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock, Randomness, format_moment, uuid7
from precipiq_contracts.errors import IdempotencyConflict, NotFound, Unavailable, ValidationFailed
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.vault import KeyVault
from precipiq_core.outbox import OutboxEvent

_ID_BYTES = 24
_HINT_CHARACTERS = 4
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """See the settings ``endpoints_max`` and ``secret_grace_max_s``."""

    endpoints_max: int
    secret_grace_max_s: int


class StripeEndpoints:
    """The operations on endpoints."""

    def __init__(
        self,
        store: EndpointStore,
        trust: EndpointTrust,
        vault: KeyVault,
        ledger: Ledger,
        clock: Clock,
        randomness: Randomness,
        limits: EndpointLimits,
    ) -> None:
        self._store = store
        self._trust = trust
        self._vault = vault
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness
        self._limits = limits

    async def create(
        self, chain: Chain, description: str | None, secret: str | None, actor: str, key: str | None = None
    ) -> tuple[StripeEndpoint, bool]:
        """Make an endpoint; gives whether it is new (a known idempotency key gives the first endpoint).

        Raises ``TooManyEndpoints``, ``IdempotencyConflict`` and the vault's errors.
        """
        now_us = self._clock.now_us()
        endpoint_id = f"we_{self._randomness.bytes(_ID_BYTES).hex()}"
        endpoint = StripeEndpoint(endpoint_id, chain, description, None, None, None, None, now_us, None)
        if secret is not None:
            wrapped = await self._vault.wrap(secret.encode(), endpoint.context)
            endpoint = replace(
                endpoint,
                secret=wrapped,
                secret_hint=secret[-_HINT_CHARACTERS:],
                secret_set_us=now_us,
                secret_fingerprint=secret_fingerprint(secret),
            )
        body: dict[str, object] = {
            "endpoint_id": endpoint_id,
            "description": description,
            "secret_fingerprint": endpoint.secret_fingerprint,
        }
        event = self._event(chain, kinds.ENDPOINT_CREATED, actor, body)
        if await self._store.add(endpoint, key, event, most=self._limits.endpoints_max):
            await self._store.events.deliver(self._ledger)
            return endpoint, True
        known = None if key is None else await self._store.by_idempotency_key(chain, key)
        if known is None or not await self._trust.counting([known]):
            raise TooManyEndpoints
        if known.description != description:
            raise IdempotencyConflict
        return known, False

    async def set_secret(self, chain: Chain, endpoint_id: str, secret: str, grace_s: int, actor: str) -> StripeEndpoint:
        """Give the endpoint a secret; the previous one stays good for ``grace_s``. A repeat changes nothing.

        Raises ``NotFound``, ``ValidationFailed`` (grace too long) and the vault's errors.
        """
        if grace_s > self._limits.secret_grace_max_s:
            raise ValidationFailed(details={"grace_seconds": [f"must be <= {self._limits.secret_grace_max_s}"]})
        old = await self.get(chain, endpoint_id)
        if old.secret is not None and (await self._vault.unwrap(old.secret, old.context)).decode() == secret:
            return old
        now_us = self._clock.now_us()
        wrapped = await self._vault.wrap(secret.encode(), old.context)
        expires_us = now_us + grace_s * _SECOND_US if grace_s and old.secret is not None else None
        new = replace(
            old,
            secret=wrapped,
            secret_hint=secret[-_HINT_CHARACTERS:],
            secret_set_us=now_us,
            secret_fingerprint=secret_fingerprint(secret),
            previous_secret=None if expires_us is None else old.secret,
            previous_expires_us=expires_us,
            previous_fingerprint=None if expires_us is None else old.secret_fingerprint,
        )
        body: dict[str, object] = {
            "endpoint_id": endpoint_id,
            "previous_good_until": format_moment(expires_us),
            "secret_fingerprint": new.secret_fingerprint,
        }
        event = self._event(chain, kinds.ENDPOINT_SECRET_SET, actor, body)
        if not await self._store.set_secret(old, new, event):
            raise Unavailable("the endpoint was changed meanwhile; try again")
        await self._store.events.deliver(self._ledger)
        return await self.get(chain, endpoint_id)

    async def delete(self, chain: Chain, endpoint_id: str, actor: str) -> StripeEndpoint:
        """Delete the endpoint and its secrets: deliveries to it are refused from now on. Raises ``NotFound``."""
        endpoint = await self._store.by_id(endpoint_id)
        # A chain that cannot be read must not keep it alive.
        if endpoint is None or endpoint.chain != chain or not await self._trust.is_ours(endpoint):
            raise NotFound
        event = self._event(chain, kinds.ENDPOINT_DELETED, actor, {"endpoint_id": endpoint_id})
        if not await self._store.delete(endpoint, event):
            raise NotFound
        await self._store.events.deliver(self._ledger)
        return endpoint

    async def get(self, chain: Chain, endpoint_id: str) -> StripeEndpoint:
        """That endpoint. Raises ``NotFound``, also for one of another chain, and for a row that does not count."""
        for endpoint in await self.of_chain(chain):
            if endpoint.endpoint_id == endpoint_id:
                return endpoint
        raise NotFound

    async def of_chain(self, chain: Chain) -> list[StripeEndpoint]:
        """All of that chain that count, newest first."""
        return await self._trust.counting(await self._store.of_chain(chain))

    def run(self, background: Background, interval_s: float) -> AbstractAsyncContextManager[None]:
        """While the context is entered, seal events that could not be sealed at once, and forget expired secrets."""
        return background(
            "billing.endpoints", self._look, every_s=interval_s, failing="Stripe endpoints cannot be looked at"
        )

    async def _look(self) -> None:
        await self._store.events.deliver(self._ledger)
        await self._store.forget_expired(self._clock.now_us())

    def _event(self, chain: Chain, kind: str, actor: str, body: dict[str, object]) -> OutboxEvent:
        event_id = uuid7(self._clock.now_us(), self._randomness.bytes(10))
        return OutboxEvent(event_id, chain, kind, actor, body)
