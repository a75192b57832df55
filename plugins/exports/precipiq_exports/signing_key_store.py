"""The table of signing keys, as typed functions over the core's database; the vault rewraps through it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.errors import Conflict
from precipiq_contracts.vault import WrappedSecret
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_macs.row_macs import RowMacs, SealedValues

_COLUMNS = "key_id, org_id, environment, public_key, wrapped_key, created_us, retired_us, replaces, announced_seq, mac"
_PAGE_KEYS = 500


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of one chain. ``public_key``: SubjectPublicKeyInfo, DER. ``wrapped``: None once the key is retired.

    ``replaces``: id of the key before it. ``announced_seq``: the entry that names the key, None before that entry.
    ``mac``: of its ``sealed`` values, None where an older version stored it.
    """

    key_id: str
    chain: Chain
    public_key: bytes
    wrapped: bytes | None
    created_us: int
    retired_us: int | None
    replaces: str | None
    announced_seq: int | None
    mac: str | None = field(default=None, repr=False)

    @property
    def sealed(self) -> SealedValues:
        """What its MAC covers: all but ``announced_seq``, which its chain says."""
        values: dict[str, Scalar] = {
            "key_id": self.key_id,
            **chain_values(self.chain),
            "public_key": _text(self.public_key),
            "wrapped_key": None if self.wrapped is None else _text(self.wrapped),
            "created_us": self.created_us,
            "retired_us": self.retired_us,
            "replaces": self.replaces,
        }
        return SealedValues("signing_keys", values)

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

    def __init__(self, database: Database, macs: RowMacs) -> None:
        self._database = database
        self._macs = macs

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

    async def chains(self) -> AsyncIterator[Chain]:
        """The chains that have keys."""
        for row in await self._database.fetch(Statement("SELECT DISTINCT org_id, environment FROM signing_keys")):
            yield chain_in(row)

    async def page(self, after_id: str) -> list[SigningKey]:
        """A page of the keys of all chains, by id; empty after the last one."""
        sql = f"SELECT {_COLUMNS} FROM signing_keys WHERE key_id > :after ORDER BY key_id LIMIT :limit"  # noqa: S608
        rows = await self._database.fetch(Statement(sql, {"after": after_id, "limit": _PAGE_KEYS}))
        return list(map(_key, rows))

    async def add(self, key: SigningKey) -> bool:
        """Store a key of a chain without one that is not retired; False when another process was first."""
        try:
            return bool((await self._database.transaction([await self._insert(key)]))[0])
        except Conflict:  # the other process's transaction ended in between
            return False

    async def rotate(self, old: SigningKey, new: SigningKey) -> bool:
        """Retire the old key, forget its private half, store the new one; False when it was replaced meanwhile."""
        retired = replace(old, retired_us=new.created_us, wrapped=None)
        retire = Statement(
            "UPDATE signing_keys SET retired_us = :now, wrapped_key = NULL, mac = :mac "
            "WHERE key_id = :key_id AND retired_us IS NULL RETURNING key_id",
            {"now": new.created_us, "key_id": old.key_id, "mac": await self._macs.make(retired.sealed)},
        )
        return bool((await self._database.transaction([retire, await self._insert(new)]))[0])

    async def adopt(self, key: SigningKey) -> None:
        """Give a key its MAC, unless it was changed since it was read."""
        sql = (
            "UPDATE signing_keys SET mac = :mac WHERE key_id = :key_id AND COALESCE(wrapped_key, '') = :wrapped "
            "AND COALESCE(retired_us, -1) = :retired"
        )
        values: dict[str, Scalar] = {
            "mac": await self._macs.make(key.sealed),
            "key_id": key.key_id,
            "wrapped": "" if key.wrapped is None else _text(key.wrapped),
            "retired": -1 if key.retired_us is None else key.retired_us,
        }
        await self._database.transaction([Statement(sql, values)])

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
        """See ``WrappedSecrets.replace``. A row that does not count keeps its MAC, so it does not count after it."""
        look = Statement(f"SELECT {_COLUMNS} FROM signing_keys WHERE key_id = :key_id", {"key_id": secret.ref})  # noqa: S608
        rows = await self._database.fetch(look)
        if not rows or (key := _key(rows[0])).wrapped != secret.wrapped:
            return False
        is_ours = await self._macs.hold(key.sealed, key.mac)
        sql = (
            "UPDATE signing_keys SET wrapped_key = :new, mac = :mac "
            "WHERE key_id = :key_id AND wrapped_key = :old AND retired_us IS NULL RETURNING key_id"
        )
        values: dict[str, Scalar] = {
            "new": _text(wrapped),
            "old": _text(secret.wrapped),
            "key_id": secret.ref,
            "mac": await self._macs.make(replace(key, wrapped=wrapped).sealed) if is_ours else key.mac,
        }
        return bool((await self._database.transaction([Statement(sql, values)]))[0])

    async def _insert(self, key: SigningKey) -> Statement:
        row = {**key.sealed.values, "mac": await self._macs.make(key.sealed)}
        sql = (
            f"INSERT INTO signing_keys ({', '.join(row)}) SELECT {', '.join(f':{name}' for name in row)} "
            f"WHERE {_NONE_ACTIVE} RETURNING key_id"
        )
        return Statement(sql, row)


_NONE_ACTIVE = (
    "NOT EXISTS (SELECT 1 FROM signing_keys WHERE org_id = :org_id AND environment = :environment "
    "AND retired_us IS NULL)"
)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: Scalar) -> bytes:
    """None where it is no base64: somebody else wrote the row, and its MAC will not hold."""
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        return b""


def _key(row: Row) -> SigningKey:
    wrapped = row["wrapped_key"]
    return SigningKey(
        str(row["key_id"]),
        chain_in(row),
        _bytes(row["public_key"]),
        None if wrapped is None else _bytes(wrapped),
        cast("int", row["created_us"]),
        cast("int | None", row["retired_us"]),
        cast("str | None", row["replaces"]),
        cast("int | None", row["announced_seq"]),
        cast("str | None", row["mac"]),
    )
