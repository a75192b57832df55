"""The table of Stripe endpoints; their secrets are wrapped. Each change and its event are one transaction."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.vault import WrappedSecret
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_core.outbox import Outbox, OutboxEvent
from precipiq_macs.row_macs import RowMacs, SealedValues

_COLUMNS = (
    "endpoint_id, org_id, environment, description, secret, secret_hint, previous_secret, previous_expires_us, "
    "created_us, secret_set_us, secret_fingerprint, previous_fingerprint, mac"
)
_PAGE = 100


@dataclass(frozen=True, slots=True)
class StripeEndpoint:
    """An endpoint as it is stored. ``secret``, ``previous_secret``: wrapped. Times in microseconds.

    ``secret_fingerprint``, ``previous_fingerprint``: what the chain says of them; None where an older version set them.
    ``mac``: of its ``sealed`` values, None where an older version stored it.
    """

    endpoint_id: str
    chain: Chain
    description: str | None
    secret: bytes | None
    secret_hint: str | None
    previous_secret: bytes | None
    previous_expires_us: int | None
    created_us: int
    secret_set_us: int | None
    secret_fingerprint: str | None = None
    previous_fingerprint: str | None = None
    mac: str | None = field(default=None, repr=False)

    @property
    def sealed(self) -> SealedValues:
        """What its MAC covers: everything."""
        values: dict[str, Scalar] = {
            "endpoint_id": self.endpoint_id,
            **chain_values(self.chain),
            "description": self.description,
            "secret": _encode(self.secret),
            "secret_hint": self.secret_hint,
            "previous_secret": _encode(self.previous_secret),
            "previous_expires_us": self.previous_expires_us,
            "created_us": self.created_us,
            "secret_set_us": self.secret_set_us,
            "secret_fingerprint": self.secret_fingerprint,
            "previous_fingerprint": self.previous_fingerprint,
        }
        return SealedValues("stripe_endpoints", values)

    @property
    def context(self) -> dict[str, str]:
        """The context that binds the wrapped secrets."""
        return {
            "purpose": "stripe webhook secret",
            "org_id": self.chain.org_id,
            "environment": self.chain.environment,
            "endpoint_id": self.endpoint_id,
        }


def secret_fingerprint(secret: str) -> str:
    """What a chain says of a signing secret: it has too many random bits to be found by trying."""
    return sha256(f"precipiq stripe secret\n{secret}".encode()).hexdigest()


class EndpointStore:
    """Endpoints of all chains; ``events``: their events that wait to be sealed.

    ``precipiq vault rewrap`` rewraps the secrets through it.
    """

    name = "Stripe webhook secrets"

    def __init__(self, database: Database, macs: RowMacs) -> None:
        self._database = database
        self._macs = macs
        self.events = Outbox(database, "billing_events", key_prefix="billing", macs=macs)

    async def add(
        self, endpoint: StripeEndpoint, idempotency_key: str | None, event: OutboxEvent, *, most: int
    ) -> bool:
        """Store a new endpoint; False when its chain has ``most``, or the idempotency key is known."""
        row = {
            **endpoint.sealed.values,
            "mac": await self._macs.make(endpoint.sealed),
            "idempotency_key": idempotency_key,
        }
        insert = (
            f"INSERT INTO stripe_endpoints ({', '.join(row)}) SELECT {', '.join(f':{name}' for name in row)} "  # noqa: S608
            "WHERE :most > (SELECT COUNT(*) FROM stripe_endpoints "
            "WHERE org_id = :org_id AND environment = :environment) "
            "ON CONFLICT DO NOTHING RETURNING endpoint_id"
        )
        values: dict[str, Scalar] = {**row, "most": most}
        stored = "WHERE EXISTS (SELECT 1 FROM stripe_endpoints WHERE endpoint_id = :endpoint_id)"
        record = self.events.insert(event, stored, {"endpoint_id": endpoint.endpoint_id})
        return bool((await self._database.transaction([Statement(insert, values), record]))[0])

    async def set_secret(self, old: StripeEndpoint, new: StripeEndpoint, event: OutboxEvent) -> bool:
        """Replace the secret; False when it was changed or the endpoint deleted meanwhile."""
        update = await self._change(old, new)
        changed = "WHERE EXISTS (SELECT 1 FROM stripe_endpoints WHERE endpoint_id = :endpoint_id AND secret = :secret)"
        record = self.events.insert(event, changed, {"endpoint_id": old.endpoint_id, "secret": _encode(new.secret)})
        return bool((await self._database.transaction([update, record]))[0])

    async def adopt(self, old: StripeEndpoint, new: StripeEndpoint) -> None:
        """Give an endpoint its MAC and fingerprints, unless it was changed since it was read."""
        await self._database.transaction([await self._change(old, new)])

    async def _change(self, old: StripeEndpoint, new: StripeEndpoint, *, is_ours: bool = True) -> Statement:
        """Changes an endpoint that is still as it was read. ``is_ours`` False: its MAC stays, and does not hold."""
        names = ("secret", "secret_hint", "previous_secret", "previous_expires_us", "secret_set_us",
                 "secret_fingerprint", "previous_fingerprint")  # fmt: skip
        values: dict[str, Scalar] = {f"new_{name}": new.sealed.values[name] for name in names}
        values["new_mac"] = await self._macs.make(new.sealed) if is_ours else old.mac
        setting = ", ".join(f"{name} = :new_{name}" for name in (*names, "mac"))
        return Statement(
            f"UPDATE stripe_endpoints SET {setting} WHERE endpoint_id = :endpoint_id AND "  # noqa: S608
            "COALESCE(secret, '') = :secret AND COALESCE(previous_secret, '') = :previous AND "
            "COALESCE(previous_expires_us, -1) = :expires RETURNING endpoint_id",
            {
                **values,
                "endpoint_id": old.endpoint_id,
                "secret": _encode(old.secret) or "",
                "previous": _encode(old.previous_secret) or "",
                "expires": -1 if old.previous_expires_us is None else old.previous_expires_us,
            },
        )

    async def delete(self, endpoint: StripeEndpoint, event: OutboxEvent) -> bool:
        """Remove the endpoint and its secrets; False when the endpoint was gone."""
        there = "WHERE EXISTS (SELECT 1 FROM stripe_endpoints WHERE endpoint_id = :endpoint_id)"
        values: dict[str, Scalar] = {"endpoint_id": endpoint.endpoint_id}
        delete = "DELETE FROM stripe_endpoints WHERE endpoint_id = :endpoint_id RETURNING endpoint_id"
        lock = "UPDATE stripe_endpoints SET created_us = created_us WHERE endpoint_id = :endpoint_id"
        statements = [Statement(lock, values), self.events.insert(event, there, values), Statement(delete, values)]
        return bool((await self._database.transaction(statements))[2])

    async def forget_expired(self, now_us: int) -> None:
        """Drop the old secrets whose grace is over; a row that does not count is left as it is."""
        sql = f"SELECT {_COLUMNS} FROM stripe_endpoints WHERE previous_expires_us <= :now"  # noqa: S608
        changes: list[Statement] = []
        for old in map(_endpoint, await self._database.fetch(Statement(sql, {"now": now_us}))):
            if await self._macs.hold(old.sealed, old.mac):
                new = replace(old, previous_secret=None, previous_expires_us=None, previous_fingerprint=None)
                changes.append(await self._change(old, new))
        if changes:
            await self._database.transaction(changes)

    async def chains(self) -> AsyncIterator[Chain]:
        """The chains that have endpoints."""
        for row in await self._database.fetch(Statement("SELECT DISTINCT org_id, environment FROM stripe_endpoints")):
            yield chain_in(row)

    async def page(self, after_id: str) -> list[StripeEndpoint]:
        """A page of the endpoints of all chains, by id; empty after the last one."""
        sql = (
            f"SELECT {_COLUMNS} FROM stripe_endpoints WHERE endpoint_id > :after "  # noqa: S608
            "ORDER BY endpoint_id LIMIT :limit"
        )
        rows = await self._database.fetch(Statement(sql, {"after": after_id, "limit": _PAGE}))
        return list(map(_endpoint, rows))

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
        while endpoints := await self.page(after):
            for endpoint in endpoints:
                for column in ("secret", "previous_secret"):
                    wrapped: bytes | None = getattr(endpoint, column)
                    if wrapped is not None:
                        yield WrappedSecret(f"{endpoint.endpoint_id}/{column}", wrapped, endpoint.context)
            after = endpoints[-1].endpoint_id

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        """See ``WrappedSecrets.replace``. A row that does not count keeps its MAC, so it does not count after it."""
        endpoint_id, _, column = secret.ref.partition("/")
        assert column in ("secret", "previous_secret")
        old = await self.by_id(endpoint_id)
        if old is None or getattr(old, column) != secret.wrapped:
            return False
        changed: dict[str, Any] = {column: wrapped}
        change = await self._change(old, replace(old, **changed), is_ours=await self._macs.hold(old.sealed, old.mac))
        return bool((await self._database.transaction([change]))[0])


def _encode(wrapped: bytes | None) -> str | None:
    return None if wrapped is None else base64.b64encode(wrapped).decode()


def _decode(text: object) -> bytes | None:
    """Nothing where it is no base64: somebody else wrote the row, and its MAC will not hold."""
    try:
        return None if text is None else base64.b64decode(str(text), validate=True)
    except ValueError:
        return b""


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
        cast("str | None", row["secret_fingerprint"]),
        cast("str | None", row["previous_fingerprint"]),
        cast("str | None", row["mac"]),
    )
