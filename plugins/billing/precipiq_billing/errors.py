"""Billing's own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import BadRequest, Conflict


class SignatureInvalid(BadRequest):
    """The delivery was not signed with a secret of the endpoint, or too long ago. Says no more on purpose."""

    code = "signature_invalid"
    default_message = "the stripe-signature does not fit this body, this endpoint and this time"


class NotAStripeEvent(BadRequest):
    """What was signed is no event as Stripe sends them; nothing was stored."""

    code = "not_a_stripe_event"
    default_message = "the body is not a Stripe event"


class TooManyEndpoints(Conflict):
    """As many Stripe endpoints as the deployment allows one organisation and environment."""

    code = "too_many_endpoints"
    default_message = "this organisation has as many Stripe endpoints as it may have; delete one first"
