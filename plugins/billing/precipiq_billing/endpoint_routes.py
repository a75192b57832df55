"""The endpoints that manage Stripe endpoints: from the request's model to the service and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from precipiq_billing import models
from precipiq_billing.endpoint_records import endpoint_record
from precipiq_billing.endpoint_store import StripeEndpoint
from precipiq_billing.endpoints import StripeEndpoints
from precipiq_billing.live_endpoints import LiveEndpoints
from precipiq_contracts.clock import Clock
from precipiq_core.http.cursors import PageQuery, page_of
from precipiq_core.http.endpoint import REPLAYED, Call, Endpoint, NoBody, NoQuery, Reply
from precipiq_core.http.settings import HttpSettings


class EndpointRoutes:
    """Handlers of ``/integrations/stripe``; all need the scope ``admin``."""

    def __init__(
        self, service: StripeEndpoints, live: LiveEndpoints, clock: Clock, public_url: str, http: HttpSettings
    ) -> None:
        self._http = http
        self._service = service
        self._live = live
        self._clock = clock
        self._public_url = public_url

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        by_id = {"id": "a Stripe endpoint's id"}
        path = "/integrations/stripe/endpoints"
        one = f"{path}/{{id}}"
        model = models.EndpointOut
        return [
            Endpoint("GET", path, self.list_endpoints, "admin", models.EndpointList, query=PageQuery),
            Endpoint(
                "POST",
                path,
                self.create_endpoint,
                "admin",
                model,
                body=models.EndpointIn,
                status=201,
                errors=("too_many_endpoints", "vault_refused"),
            ),
            Endpoint("GET", one, self.get_endpoint, "admin", model, path_parameters=by_id),
            Endpoint(
                "POST",
                f"{one}/secret",
                self.set_endpoint_secret,
                "admin",
                model,
                body=models.SecretIn,
                errors=("vault_refused",),
                path_parameters=by_id,
            ),
            Endpoint("DELETE", one, self.delete_endpoint, "admin", model, rate="write", path_parameters=by_id),
        ]

    async def list_endpoints(self, call: Call[NoBody, PageQuery]) -> object:
        """List the organisation's Stripe endpoints, newest first; without `limit` all of them."""
        endpoints, next_cursor = page_of(
            "stripe_endpoints", await self._service.of_chain(call.principal.chain), call.query, self._http
        )
        return {"items": [self._record(endpoint) for endpoint in endpoints], "next_cursor": next_cursor}

    async def create_endpoint(self, call: Call[models.EndpointIn, NoQuery]) -> Reply:
        """Make an endpoint for Stripe's events.

        Register its `url` in Stripe for the listed `event_types`, then set the signing secret that Stripe shows.
        """
        body, principal = call.body, call.principal
        endpoint, is_new = await self._service.create(
            principal.chain, body.description, body.secret, principal.key_id, call.idempotency_key
        )
        self._live.forget()
        return Reply(self._record(endpoint), headers=() if is_new else (REPLAYED,))

    async def get_endpoint(self, call: Call[NoBody, NoQuery]) -> object:
        """Get a Stripe endpoint; never its secret."""
        return self._record(await self._service.get(call.principal.chain, call.path["id"]))

    async def set_endpoint_secret(self, call: Call[models.SecretIn, NoQuery]) -> object:
        """Set or roll an endpoint's signing secret.

        With `grace_seconds` the secret before stays good beside it, as Stripe does while a secret is rolled.
        """
        principal, body = call.principal, call.body
        endpoint = await self._service.set_secret(
            principal.chain, call.path["id"], body.secret, body.grace_seconds, principal.key_id
        )
        self._live.forget()
        return self._record(endpoint)

    async def delete_endpoint(self, call: Call[NoBody, NoQuery]) -> object:
        """Delete a Stripe endpoint and its secrets; deliveries to it are refused from now on."""
        principal = call.principal
        endpoint = await self._service.delete(principal.chain, call.path["id"], principal.key_id)
        self._live.forget()
        return self._record(endpoint)

    def _record(self, endpoint: StripeEndpoint) -> dict[str, Any]:
        return endpoint_record(endpoint, self._public_url, self._clock.now_us())
