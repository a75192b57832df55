"""Endpoints and their plain secrets in memory, for some seconds: a delivery costs neither database nor vault."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from precipiq_billing.endpoint_store import EndpointStore, StripeEndpoint
from precipiq_billing.endpoint_trust import EndpointTrust
from precipiq_billing.errors import SignatureInvalid
from precipiq_billing.signatures import check_signature
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import NotFound
from precipiq_contracts.vault import KeyVault

_SETTLED_S = 0.5
_ID = re.compile(r"we_\w{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Live:
    """``secrets``: each with its expiry in microseconds, None for ever."""

    chain: Chain
    secrets: tuple[tuple[str, int | None], ...]


class LiveEndpoints:
    """Checks the signatures of deliveries. ``cached_max`` bounds endpoints and secrets in memory."""

    def __init__(
        self,
        store: EndpointStore,
        trust: EndpointTrust,
        vault: KeyVault,
        clock: Clock,
        *,
        refresh_s: float,
        cached_max: int,
    ) -> None:
        self._store = store
        self._trust = trust
        self._vault = vault
        self._clock = clock
        self._refresh_s = refresh_s
        self._cached_max = cached_max
        self._live: OrderedDict[str | Chain, _Live] = OrderedDict()
        self._loaded_s: dict[str | Chain, float] = {}
        self._plain: OrderedDict[bytes, str] = OrderedDict()

    async def check_endpoint(self, endpoint_id: str, body: bytes, signature: str | None) -> Chain:
        """Check that a secret of that endpoint signed the body; gives the endpoint's chain.

        Raises ``NotFound`` for an unknown endpoint, ``SignatureInvalid``, and the errors of database and vault.
        """

        if not _ID.fullmatch(endpoint_id):
            raise NotFound

        async def load() -> _Live | None:
            endpoint = await self._store.by_id(endpoint_id)
            if endpoint is None or not (counted := await self._trust.counting([endpoint])):
                return None
            return await self._make_live(endpoint.chain, counted)

        return await self._check(endpoint_id, load, body, signature)

    async def check_chain(self, chain: Chain, body: bytes, signature: str | None) -> None:
        """Check that a secret of any endpoint of that chain signed the body. Raises as :meth:`check_endpoint`."""

        async def load() -> _Live:
            return await self._make_live(chain, await self._trust.counting(await self._store.of_chain(chain)))

        await self._check(chain, load, body, signature)

    def forget(self) -> None:
        """Forget all endpoints and secrets in memory: this process changed an endpoint."""
        self._plain.clear()
        self._live.clear()
        self._loaded_s.clear()

    async def _check(
        self,
        key: str | Chain,
        load: Callable[[], Awaitable[_Live | None]],
        body: bytes,
        signature: str | None,
    ) -> Chain:
        live = await self._current(key, load, self._refresh_s)
        try:
            return await self._verify(live, body, signature)
        except SignatureInvalid:
            # Another process may have set the endpoint's secret a moment ago.
            newer = await self._current(key, load, _SETTLED_S)
            if newer is live:
                raise
            return await self._verify(newer, body, signature)

    async def _verify(self, live: _Live, body: bytes, signature: str | None) -> Chain:
        now_us = self._clock.now_us()
        secrets = [secret for secret, until_us in live.secrets if until_us is None or now_us < until_us]
        await check_signature(body, signature, secrets, now_us)
        return live.chain

    async def _current(self, key: str | Chain, load: Callable[[], Awaitable[_Live | None]], fresh_s: float) -> _Live:
        """Nothing is kept of an endpoint that does not exist: anybody can name any number of them."""
        if key in self._live and self._clock.monotonic_s() - self._loaded_s[key] <= fresh_s:
            return self._live[key]
        asked_s = self._clock.monotonic_s()
        live = await load()
        if live is None:
            self._live.pop(key, None)
            self._loaded_s.pop(key, None)
            raise NotFound
        self._live[key] = live
        self._live.move_to_end(key)
        self._loaded_s[key] = asked_s
        while len(self._live) > self._cached_max:
            oldest, _ = self._live.popitem(last=False)
            self._loaded_s.pop(oldest, None)
        return live

    async def _make_live(self, chain: Chain, endpoints: Sequence[StripeEndpoint]) -> _Live:
        secrets: list[tuple[str, int | None]] = []
        for endpoint in endpoints:
            if endpoint.secret is not None:
                secrets.append((await self._unwrap(endpoint, endpoint.secret), None))
            if endpoint.previous_secret is not None and (endpoint.previous_expires_us or 0) > self._clock.now_us():
                plain = await self._unwrap(endpoint, endpoint.previous_secret)
                secrets.append((plain, endpoint.previous_expires_us))
        return _Live(chain, tuple(secrets))

    async def _unwrap(self, endpoint: StripeEndpoint, wrapped: bytes) -> str:
        if wrapped not in self._plain:
            self._plain[wrapped] = (await self._vault.unwrap(wrapped, endpoint.context)).decode()
            while len(self._plain) > self._cached_max:
                self._plain.popitem(last=False)
        self._plain.move_to_end(wrapped)
        return self._plain[wrapped]
