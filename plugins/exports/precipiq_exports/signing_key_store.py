"""The table of signing keys, as typed functions over the core's database; the vault rewraps through it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import cast

from precipiq_chain.chain_columns import chain_in, chain_values
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Statement
from precipiq_contracts.errors import Conflict
from precipiq_contracts.vault import WrappedSecret

_COLUMNS = "key_id, org_id, environment, public_key, wrapped_key, created_us, retired_us, replaces, announced_seq"
_PAGE_KEYS = 500


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of one chain. ``public_key``: SubjectPublicKeyInfo, DER. ``wrapped``: None once the key is retired.

    ``replaces``: id of the key before it. ``announced_seq``: the entry that names the key, None before that entry.
    """

    key_id: str
    chain: Chain
    public_key: bytes
    wrapped: bytes | None
    created_us: int
    retired_us: int | None
    replaces: str | None
    announced_seq: int | None

    @property
    def context(self) -> Mapping[str, str]:
        """The context that binds the wrapped private half."""
        return context_of(self.chain, self.key_id)


def context_of(chain: Chain, key_id: str) -> Mapping[str, str]:
    """As :attr:`SigningKey.context`, before the key exists."""
    return {
        "purpose": "export signing key",
        "org_id": chain.org_id,
        "environment": chain.environment,
        "key_id": key_id,
    }


class SigningKeyStore:
    """Signing keys of all chains; ``WrappedSecrets`` of the vault. At most one key of a chain is not retired."""

    name = "export signing keys"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def active(self, chain: Chain) -> SigningKey | None:
        sql = f"SELECT {_COLUMNS} FROM signing_keys WHERE retired_us IS NULL"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql))
        return _key(rows[0]) if rows else None

    async def get(self, chain: Chain, key_id: str) -> SigningKey | None:
        sql = f"SELECT {_COLUMNS} FROM signing_keys WHERE key_id = :key_id"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql, {"key_id": key_id}))
        return _key(rows[0]) if rows else None

    async def of_chain(self, chain: Chain) -> list[SigningKey]:
        """Newest first."""
        sql = f"SELECT {_COLUMNS} FROM signing_keys ORDER BY created_us DESC, key_id DESC"  # noqa: S608
        return [_key(row) for row in await self._database.fetch_as(chain, Statement(sql))]

    async def of_organisation(self, org_id: str) -> list[SigningKey]:
        """Newest first. For the published page, whose readers need not belong to the organisation."""
        sql = f"SELECT {_COLUMNS} FROM signing_keys WHERE org_id = :org_id ORDER BY created_us DESC, key_id DESC"  # noqa: S608
        return [_key(row) for row in await self._database.fetch(Statement(sql, {"org_id": org_id}))]

    async def add(self, key: SigningKey) -> bool:
        """Store the first key of a chain; False when another process was first."""
        if_none = "WHERE NOT EXISTS (SELECT 1 FROM signing_keys WHERE org_id = :org_id AND environment = :environment)"
        try:
            return bool((await self._database.transaction([_insert(key, if_none)]))[0])
        except Conflict:  # the other process's transaction ended in between
            return False

    async def rotate(self, old: SigningKey, new: SigningKey) -> bool:
        """Retire the old key, forget its private half, store the new one; False when it was replaced meanwhile."""
        retire = Statement(
            "UPDATE signing_keys SET retired_us = :now, wrapped_key = NULL "
            "WHERE key_id = :key_id AND retired_us IS NULL RETURNING key_id",
            {"now": new.created_us, "key_id": old.key_id},
        )
        if_none = (
            "WHERE NOT EXISTS (SELECT 1 FROM signing_keys WHERE org_id = :org_id AND environment = :environment "
            "AND retired_us IS NULL)"
        )
        return bool((await self._database.transaction([retire, _insert(new, if_none)]))[0])

    async def note_announced(self, key: SigningKey, seq: int) -> None:
        sql = "UPDATE signing_keys SET announced_seq = :seq WHERE key_id = :key_id"
        await self._database.transaction([Statement(sql, {"seq": seq, "key_id": key.key_id})])

    async def all(self) -> AsyncIterator[WrappedSecret]:
        """See ``WrappedSecrets.all``."""
        after = ""
        sql = (
            f"SELECT {_COLUMNS} FROM signing_keys WHERE wrapped_key IS NOT NULL AND key_id > :after "  # noqa: S608
            "ORDER BY key_id LIMIT :limit"
        )
        while rows := await self._database.fetch(Statement(sql, {"after": after, "limit": _PAGE_KEYS})):
            for key in map(_key, rows):
                assert key.wrapped is not None
                yield WrappedSecret(key.key_id, key.wrapped, key.context)
            after = str(rows[-1]["key_id"])

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        """See ``WrappedSecrets.replace``."""
        sql = (
            "UPDATE signing_keys SET wrapped_key = :new WHERE key_id = :key_id AND wrapped_key = :old RETURNING key_id"
        )
        values = {"new": _text(wrapped), "old": _text(secret.wrapped), "key_id": secret.ref}
        return bool((await self._database.transaction([Statement(sql, values)]))[0])


def _insert(key: SigningKey, condition: str) -> Statement:
    columns = "key_id, org_id, environment, public_key, wrapped_key, created_us, replaces"
    values = ", ".join(f":{name.strip()}" for name in columns.split(","))
    return Statement(
        f"INSERT INTO signing_keys ({columns}) SELECT {values} {condition} RETURNING key_id",
        {
            "key_id": key.key_id,
            **chain_values(key.chain),
            "public_key": _text(key.public_key),
            "wrapped_key": None if key.wrapped is None else _text(key.wrapped),
            "created_us": key.created_us,
            "replaces": key.replaces,
        },
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _key(row: Row) -> SigningKey:
    wrapped = row["wrapped_key"]
    return SigningKey(
        str(row["key_id"]),
        chain_in(row),
        base64.b64decode(str(row["public_key"])),
        None if wrapped is None else base64.b64decode(str(wrapped)),
        cast("int", row["created_us"]),
        cast("int | None", row["retired_us"]),
        cast("str | None", row["replaces"]),
        cast("int | None", row["announced_seq"]),
    )
