"""The endpoints where Stripe delivers: the raw body is verified before it is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import orjson
from pydantic import BaseModel

from precipiq_billing import models
from precipiq_billing.deliveries import Deliveries, Outcome
from precipiq_billing.endpoint_records import ENDPOINT_PATH
from precipiq_billing.errors import NotAStripeEvent, SignatureInvalid
from precipiq_billing.live_endpoints import LiveEndpoints
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_chain.strict_json import has_more_nodes
from precipiq_contracts.chain import Chain
from precipiq_core.http.endpoint import AnyQuery, Call, Endpoint, Handler, NoQuery, PublicCall, RawBody

SIGNATURE = "stripe-signature"

_NODES_MAX = 20_000
"""Values and names in the JSON of an event; parsing so many takes some milliseconds."""

_ERRORS = ("signature_invalid", "not_a_stripe_event")

Delivered: TypeAlias = PublicCall[bytes, AnyQuery]
"""The query of a delivery to an endpoint's URL: it has no key, and its parameters are ignored."""


def delivery_endpoint(path: str, handler: Handler, output: type[BaseModel], body_bytes_max: int) -> Endpoint:
    """An endpoint without a key, whose sender signs the body; ``path`` from the root."""
    return Endpoint(
        "POST",
        path,
        handler,
        None,
        output,
        body=RawBody(body_bytes_max, {SIGNATURE: "what Stripe signed the body with"}),
        query=AnyQuery,
        errors=(*_ERRORS, "internal_error", "unavailable"),
        absolute=True,
        path_parameters={"endpoint_id": "the endpoint's id, as its URL has it"},
    )


def signature_of(call: PublicCall[Any, Any]) -> str | None:
    """The signature's header; None when it is missing or given twice."""
    values = call.header_values(SIGNATURE)
    return values[0] if len(values) == 1 else None


def parse_event(body: bytes) -> object:
    """The JSON of a verified body. Raises ``NotAStripeEvent``, also for more nodes than any event of Stripe's has."""
    if has_more_nodes(body, _NODES_MAX):
        raise NotAStripeEvent
    try:
        return orjson.loads(body)
    except ValueError:
        raise NotAStripeEvent from None


class StripeWebhooks:
    """Deliveries of the tenants' own Stripe accounts, by endpoint id or with a key."""

    def __init__(
        self,
        endpoints: LiveEndpoints,
        deliveries: Deliveries,
        metrics: DeliveryMetrics,
        *,
        body_bytes_max: int,
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._metrics = metrics
        self._body_bytes_max = body_bytes_max

    def endpoints(self) -> Sequence[Endpoint]:
        """An endpoint for senders that can set a header, and an endpoint for Stripe."""
        return [
            Endpoint(
                "POST",
                "/financial-events/webhook/stripe",
                self.receive_stripe_event,
                "write",
                models.Delivery,
                body=RawBody(self._body_bytes_max),
                errors=_ERRORS,
            ),
            delivery_endpoint(ENDPOINT_PATH, self.receive_delivery, models.Delivery, self._body_bytes_max),
        ]

    async def receive_stripe_event(self, call: Call[bytes, NoQuery]) -> object:
        """Receive an event from Stripe.

        The header `stripe-signature` must fit the body and a secret of one of the organisation's endpoints. Repeats
        and other orders of events change nothing: what is booked is always the difference.
        """
        chain = call.principal.chain
        try:
            await self._endpoints.check_chain(chain, call.body, signature_of(call))
        except SignatureInvalid:
            self._metrics.count("refused")
            raise
        return await self._take(chain, call.body)

    async def receive_delivery(self, call: Delivered) -> object:
        """Where Stripe delivers the events of one organisation."""
        try:
            chain = await self._endpoints.check_endpoint(call.path["endpoint_id"], call.body, signature_of(call))
        except SignatureInvalid:
            self._metrics.count("refused")
            raise
        call.tell_log(chain.org_id, "stripe")
        return await self._take(chain, call.body)

    async def _take(self, chain: Chain, body: bytes) -> dict[str, Any]:
        return delivery_record(await self._deliveries.take(chain, parse_event(body)))


def delivery_record(outcome: Outcome) -> dict[str, Any]:
    """A delivery's outcome, in the contract's shape."""
    return {"processed": outcome.processed, "reason": outcome.reason, "financial_event_id": outcome.entry_id}
