"""Where Stripe delivers: the raw body is verified before anything in it is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from precipiq_billing import models
from precipiq_billing.deliveries import Deliveries, Outcome
from precipiq_billing.errors import NotAStripeEvent, SignatureInvalid
from precipiq_billing.live_endpoints import LiveEndpoints
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_contracts.errors import InternalError, PrecipiqError, Unavailable
from precipiq_contracts.settings import HttpSettings
from precipiq_core.http.body import BodyLimits, read_raw
from precipiq_core.http.endpoint import Call, Endpoint, NoBody, NoQuery, PlainEndpoint, RawRequest
from precipiq_core.http.envelope import Answer, error_answer, send_answer, success

SIGNATURE = "stripe-signature"

_ERRORS = (
    "signature_invalid",
    "not_a_stripe_event",
    "payload_too_large",
    "unsupported_media_type",
    "request_timeout",
    "internal_error",
    "unavailable",
)

Take = Callable[[Scope, bytes, str | None], Awaitable[dict[str, Any]]]


def signature_of(request: RawRequest) -> str | None:
    """The signature's header; None when it is missing or given twice."""
    values = request.values(SIGNATURE)
    return values[0] if len(values) == 1 else None


def parse_event(body: bytes) -> object:
    """The JSON of a verified body. Raises ``NotAStripeEvent``."""
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

    def endpoint(self) -> Endpoint:
        """For senders that can set a header."""
        return Endpoint(
            "POST",
            "/financial-events/webhook/stripe",
            self.receive_stripe_event,
            "write",
            models.Delivery,
            errors=("signature_invalid", "not_a_stripe_event"),
            raw_body_bytes_max=self._body_bytes_max,
        )

    async def receive_stripe_event(self, call: Call[NoBody, NoQuery]) -> object:
        """Receive an event from Stripe.

        The header `stripe-signature` must fit the body and a secret of one of the organisation's endpoints. Repeats
        and other orders of events change nothing: what is booked is always the difference.
        """
        assert call.raw is not None
        chain = call.principal.chain
        try:
            await self._endpoints.check_chain(chain, call.raw.body, signature_of(call.raw))
        except SignatureInvalid:
            self._metrics.count("refused")
            raise
        return await self._take(chain, call.raw.body)

    async def receive(self, scope: Scope, body: bytes, signature: str | None) -> dict[str, Any]:
        """A delivery to an endpoint's own URL."""
        try:
            chain = await self._endpoints.check_endpoint(scope["path_params"]["endpoint_id"], body, signature)
        except SignatureInvalid:
            self._metrics.count("refused")
            raise
        scope["precipiq.principal_ids"] = (chain.org_id, "stripe")
        return await self._take(chain, body)

    async def _take(self, chain: Chain, body: bytes) -> dict[str, Any]:
        return delivery_record(await self._deliveries.take(chain, parse_event(body)))


def delivery_record(outcome: Outcome) -> dict[str, Any]:
    """What became of a delivery, in the contract's shape."""
    return {"processed": outcome.processed, "reason": outcome.reason, "financial_event_id": outcome.entry_id}


class RawWebhook:
    """An endpoint without a key, whose sender proves itself by a signature over the raw body."""

    def __init__(self, take: Take, http: HttpSettings, clock: Clock, *, body_bytes_max: int) -> None:
        self._take = take
        self._clock = clock
        self._limits = BodyLimits(body_bytes_max, http.body_timeout_s, http.depth_max)
        self._timeout_s = http.handler_timeout_s

    def endpoint(self, path: str, summary: str, output: type[BaseModel] = models.Delivery) -> PlainEndpoint:
        """Mounted at that path; ``output``: model of what is answered."""
        return PlainEndpoint(
            path,
            self,
            summary,
            "application/json",
            path_parameters={"endpoint_id": "the endpoint's id, as its URL has it"},
            errors=_ERRORS,
            method="POST",
            output=output,
            headers={SIGNATURE: "what Stripe signed the body with"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_raw(scope["headers"], receive, self._limits)
            signature = signature_of(RawRequest(scope["headers"], body))
            async with asyncio.timeout(self._timeout_s):
                data = await self._take(scope, body, signature)
            timestamp = format_timestamp(self._clock.now_us())
            answer = Answer(200, success(data, request_id=scope["precipiq.request_id"], timestamp=timestamp))
        except InternalError:
            raise
        except PrecipiqError as error:
            answer = error_answer(error)
        except TimeoutError:
            answer = error_answer(Unavailable("the delivery took too long; its outcome is unknown"))
        except ClientDisconnect:
            return
        await send_answer(send, answer)
