"""How many streams may be opened and be open: per address, per organisation and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from precipiq_contracts.auth import AddressLimiter
from precipiq_contracts.errors import RateLimited
from precipiq_contracts.plans import Plans
from precipiq_shared.addresses import counted_address
from precipiq_ws_stream.config import WsStreamConfig

HANDSHAKE = "stream_handshake"

_MINUTE_S = 60
_RETRY_AFTER_S = 5.0


class Places:
    """Handshakes are counted by the capability, for all processes where it can; open streams by this process.

    ``plans``: what they set comes before ``connections_per_organisation_max``.
    """

    def __init__(self, limiter: AddressLimiter, config: WsStreamConfig, plans: Plans | None = None) -> None:
        self._limiter = limiter
        self._config = config
        self._plans = plans
        self._taken = 0
        self._by_address: Counter[str] = Counter()
        self._by_organisation: Counter[str] = Counter()

    async def count_handshake(self, address: str | None) -> None:
        """Raises ``RateLimited`` when the address opened too many."""
        quota = self._config.handshakes_per_minute_max
        state = await self._limiter.hit(HANDSHAKE, address, quota, _MINUTE_S)
        if state.retry_after_s > 0:
            raise RateLimited("too many streams opened from this address", retry_after_s=state.retry_after_s)

    @contextmanager
    def take(self, address: str | None, org_id: str) -> Iterator[None]:
        """Hold a place as long as this is entered. Raises ``RateLimited`` when there is none."""
        config, client = self._config, counted_address(address)
        for count, count_max, whose in (
            (self._taken, config.connections_max, "on this server"),
            (self._by_address.get(client, 0), config.connections_per_address_max, "from this address"),
            (self._by_organisation.get(org_id, 0), self._streams_max(org_id), "of this organisation"),
        ):
            if count >= count_max:
                raise RateLimited(f"too many open streams {whose}", retry_after_s=_RETRY_AFTER_S)
        self._change(1, client, org_id)
        try:
            yield
        finally:
            self._change(-1, client, org_id)

    def _streams_max(self, org_id: str) -> int:
        planned = None if self._plans is None else self._plans.limits_of(org_id).streams_max
        return self._config.connections_per_organisation_max if planned is None else planned

    def _change(self, count: int, client: str, org_id: str) -> None:
        self._taken += count
        self._by_address[client] += count
        self._by_organisation[org_id] += count
        if not self._by_address[client]:
            del self._by_address[client]
        if not self._by_organisation[org_id]:
            del self._by_organisation[org_id]
