"""The table of Stripe endpoints; their secrets are wrapped. Each change and its event are one transaction."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from precipiq_chain.chain_columns import chain_in, chain_values
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.vault import WrappedSecret
from precipiq_core.outbox import Outbox, OutboxEvent

_COLUMNS = (
    "endpoint_id, org_id, environment, description, secret, secret_hint, previous_secret, previous_expires_us, "
    "created_us, secret_set_us"
)
_PAGE = 100


@dataclass(frozen=True, slots=True)
class StripeEndpoint:
    """An endpoint as it is stored. ``secret``, ``previous_secret``: wrapped. Times in microseconds."""

    endpoint_id: str
    chain: Chain
    description: str | None
    secret: bytes | None
    secret_hint: str | None
    previous_secret: bytes | None
    previous_expires_us: int | None
    created_us: int
    secret_set_us: int | None

    @property
    def context(self) -> dict[str, str]:
        """The context that binds the wrapped secrets."""
        return {
            "purpose": "stripe webhook secret",
            "org_id": self.chain.org_id,
            "environment": self.chain.environment,
            "endpoint_id": self.endpoint_id,
        }


class EndpointStore:
    """Endpoints of all chains; ``events``: their events that wait to be sealed.

    ``precipiq vault rewrap`` rewraps the secrets through it.
    """

    name = "Stripe webhook secrets"

    def __init__(self, database: Database) -> None:
        self._database = database
        self.events = Outbox(database, "billing_events", key_prefix="billing")

    async def add(
        self, endpoint: StripeEndpoint, idempotency_key: str | None, event: OutboxEvent, *, most: int
    ) -> bool:
        """Store a new endpoint; False when its chain has ``most``, or the idempotency key is known."""
        insert = (
            "INSERT INTO stripe_endpoints (endpoint_id, org_id, environment, description, secret, secret_hint, "
            "created_us, secret_set_us, idempotency_key) SELECT :endpoint_id, :org_id, :environment, :description, "
            ":secret, :secret_hint, :created_us, :secret_set_us, :idempotency_key WHERE :most > (SELECT COUNT(*) "
            "FROM stripe_endpoints WHERE org_id = :org_id AND environment = :environment) "
            "ON CONFLICT DO NOTHING RETURNING endpoint_id"
        )
        values: dict[str, Scalar] = {
            "endpoint_id": endpoint.endpoint_id,
            **chain_values(endpoint.chain),
            "description": endpoint.description,
            "secret": _encode(endpoint.secret),
            "secret_hint": endpoint.secret_hint,
            "created_us": endpoint.created_us,
            "secret_set_us": endpoint.secret_set_us,
            "idempotency_key": idempotency_key,
            "most": most,
        }
        stored = "WHERE EXISTS (SELECT 1 FROM stripe_endpoints WHERE endpoint_id = :endpoint_id)"
        record = self.events.insert(event, stored, {"endpoint_id": endpoint.endpoint_id})
        return bool((await self._database.transaction([Statement(insert, values), record]))[0])

    async def set_secret(
        self,
        old: StripeEndpoint,
        secret: bytes,
        hint: str,
        now_us: int,
        previous_expires_us: int | None,
        event: OutboxEvent,
    ) -> bool:
        """Replace the secret; False when it was changed or the endpoint deleted meanwhile."""
        update = (
            "UPDATE stripe_endpoints SET previous_secret = :previous, previous_expires_us = :expires, "
            "secret = :secret, secret_hint = :hint, secret_set_us = :now "
            "WHERE endpoint_id = :endpoint_id AND COALESCE(secret, '') = :old RETURNING endpoint_id"
        )
        encoded = _encode(secret)
        values: dict[str, Scalar] = {
            "endpoint_id": old.endpoint_id,
            "secret": encoded,
            "hint": hint,
            "now": now_us,
            "expires": previous_expires_us,
            "previous": None if previous_expires_us is None else _encode(old.secret),
            "old": _encode(old.secret) or "",
        }
        changed = "WHERE EXISTS (SELECT 1 FROM stripe_endpoints WHERE endpoint_id = :endpoint_id AND secret = :secret)"
        record = self.events.insert(event, changed, {"endpoint_id": old.endpoint_id, "secret": encoded})
        return bool((await self._database.transaction([Statement(update, values), record]))[0])

    async def delete(self, endpoint: StripeEndpoint, event: OutboxEvent) -> bool:
        """Remove the endpoint and its secrets; False when the endpoint was gone."""
        there = "WHERE EXISTS (SELECT 1 FROM stripe_endpoints WHERE endpoint_id = :endpoint_id)"
        values: dict[str, Scalar] = {"endpoint_id": endpoint.endpoint_id}
        delete = "DELETE FROM stripe_endpoints WHERE endpoint_id = :endpoint_id RETURNING endpoint_id"
        lock = "UPDATE stripe_endpoints SET created_us = created_us WHERE endpoint_id = :endpoint_id"
        statements = [Statement(lock, values), self.events.insert(event, there, values), Statement(delete, values)]
        return bool((await self._database.transaction(statements))[2])

    async def forget_expired(self, now_us: int) -> None:
        """Drop the old secrets whose grace is over."""
        sql = (
            "UPDATE stripe_endpoints SET previous_secret = NULL, previous_expires_us = NULL "
            "WHERE previous_expires_us <= :now"
        )
        await self._database.transaction([Statement(sql, {"now": now_us})])

    async def of_chain(self, chain: Chain) -> list[StripeEndpoint]:
        """All of that chain, newest first."""
        sql = f"SELECT {_COLUMNS} FROM stripe_endpoints ORDER BY created_us DESC, endpoint_id"  # noqa: S608
        return [_endpoint(row) for row in await self._database.fetch_as(chain, Statement(sql))]

    async def by_idempotency_key(self, chain: Chain, key: str) -> StripeEndpoint | None:
        """The endpoint that a request with that key made."""
        sql = f"SELECT {_COLUMNS} FROM stripe_endpoints WHERE idempotency_key = :key"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql, {"key": key}))
        return _endpoint(rows[0]) if rows else None

    async def by_id(self, endpoint_id: str) -> StripeEndpoint | None:
        """The endpoint with that id, for a delivery, which learns the tenant from it."""
        sql = f"SELECT {_COLUMNS} FROM stripe_endpoints WHERE endpoint_id = :endpoint_id"  # noqa: S608
        rows = await self._database.fetch(Statement(sql, {"endpoint_id": endpoint_id}))
        return _endpoint(rows[0]) if rows else None

    async def all(self) -> AsyncIterator[WrappedSecret]:
        """See ``WrappedSecrets.all``."""
        after = ""
        sql = (
            f"SELECT {_COLUMNS} FROM stripe_endpoints WHERE endpoint_id > :after "  # noqa: S608
            "ORDER BY endpoint_id LIMIT :limit"
        )
        while rows := await self._database.fetch(Statement(sql, {"after": after, "limit": _PAGE})):
            for endpoint in map(_endpoint, rows):
                for column in ("secret", "previous_secret"):
                    wrapped: bytes | None = getattr(endpoint, column)
                    if wrapped is not None:
                        yield WrappedSecret(f"{endpoint.endpoint_id}/{column}", wrapped, endpoint.context)
            after = str(rows[-1]["endpoint_id"])

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        """See ``WrappedSecrets.replace``."""
        endpoint_id, _, column = secret.ref.partition("/")
        assert column in ("secret", "previous_secret")
        sql = (
            f"UPDATE stripe_endpoints SET {column} = :new "  # noqa: S608
            f"WHERE endpoint_id = :endpoint_id AND {column} = :old RETURNING endpoint_id"
        )
        values: dict[str, Scalar] = {
            "endpoint_id": endpoint_id,
            "new": _encode(wrapped),
            "old": _encode(secret.wrapped),
        }
        return bool((await self._database.transaction([Statement(sql, values)]))[0])


def _encode(wrapped: bytes | None) -> str | None:
    return None if wrapped is None else base64.b64encode(wrapped).decode()


def _decode(text: object) -> bytes | None:
    return None if text is None else base64.b64decode(str(text))


def _endpoint(row: Row) -> StripeEndpoint:
    return StripeEndpoint(
        str(row["endpoint_id"]),
        chain_in(row),
        cast("str | None", row["description"]),
        _decode(row["secret"]),
        cast("str | None", row["secret_hint"]),
        _decode(row["previous_secret"]),
        cast("int | None", row["previous_expires_us"]),
        cast("int", row["created_us"]),
        cast("int | None", row["secret_set_us"]),
    )
