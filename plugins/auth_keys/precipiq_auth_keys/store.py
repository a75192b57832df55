"""The tables of this plugin, as typed functions over the core's database. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from precipiq_contracts.auth import Scope
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_core.outbox import Outbox, OutboxEvent
from precipiq_macs.row_macs import RowMacs, SealedValues

_KEY_COLUMNS = (
    "key_id, org_id, environment, prefix, last_four, scopes, "
    "created_us, expires_us, revoked_us, replaced_by, last_used_us, is_revoked, secret_hash, mac"
)
_PAGE = 500
_NEVER_US = 2**63 - 1
_ENDS_US = (
    f"(CASE WHEN revoked_us IS NULL THEN COALESCE(expires_us, {_NEVER_US}) "
    "WHEN expires_us IS NULL OR expires_us > revoked_us THEN revoked_us ELSE expires_us END)"
)
"""When a key ends by itself, word for word as in the index ``api_keys_open``."""


@dataclass(frozen=True, slots=True)
class Organisation:
    """A tenant."""

    org_id: str
    name: str
    created_us: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is stored. Times in microseconds; ``revoked_us`` may lie ahead (a grace).

    ``is_revoked``: for good and at once, whatever the time; False while a grace lasts, and after it.
    ``mac``: of its ``sealed`` values, None where an older version stored it.
    """

    key_id: str
    chain: Chain
    prefix: str
    last_four: str
    scopes: tuple[Scope, ...]
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    replaced_by: str | None
    last_used_us: int | None
    is_revoked: bool = False
    secret_hash: str = field(default="", repr=False)
    mac: str | None = field(default=None, repr=False)

    @property
    def sealed(self) -> SealedValues:
        """What its MAC covers: all but when it was last used."""
        values: dict[str, Scalar] = {
            "key_id": self.key_id,
            **chain_values(self.chain),
            "secret_hash": self.secret_hash,
            "prefix": self.prefix,
            "last_four": self.last_four,
            "scopes": " ".join(self.scopes),
            "created_us": self.created_us,
            "expires_us": self.expires_us,
            "revoked_us": self.revoked_us,
            "replaced_by": self.replaced_by,
            "is_revoked": int(self.is_revoked),
        }
        return SealedValues("api_keys", values)

    def is_active(self, now_us: int) -> bool:
        """Whether it may be used. Only an expiry and a grace go by the clock, which may be behind."""
        if self.is_revoked or (self.revoked_us is not None and self.replaced_by is None):
            return False
        return (self.expires_us is None or now_us < self.expires_us) and (
            self.revoked_us is None or now_us < self.revoked_us
        )


class KeyStore:
    """Organisations and keys; ``events``: events of keys that wait to be sealed."""

    def __init__(self, database: Database, macs: RowMacs) -> None:
        self._database = database
        self._macs = macs
        self.events = Outbox(database, "key_events", key_prefix="key_event", macs=macs)

    async def add_organisation(self, organisation: Organisation) -> None:
        sql = "INSERT INTO organisations (org_id, name, created_us) VALUES (:org_id, :name, :created_us)"
        await self._database.transaction([Statement(sql, _organisation_values(organisation))])

    async def add_first_organisation(self, organisation: Organisation) -> bool:
        """Store it unless any process has made an organisation already; whether it was stored."""
        sql = (
            "INSERT INTO organisations (org_id, name, created_us) SELECT :org_id, :name, :created_us "
            "WHERE NOT EXISTS (SELECT 1 FROM organisations) RETURNING org_id"
        )
        rows = await self._database.transaction([_COUNT_CHANGE, Statement(sql, _organisation_values(organisation))])
        return bool(rows[1])

    async def organisations(self) -> list[Organisation]:
        rows = await self._database.fetch(
            Statement("SELECT org_id, name, created_us FROM organisations ORDER BY created_us, org_id")
        )
        return [Organisation(str(row["org_id"]), str(row["name"]), cast("int", row["created_us"])) for row in rows]

    async def has_organisation(self, org_id: str) -> bool:
        sql = "SELECT 1 AS found FROM organisations WHERE org_id = :org_id"
        return bool(await self._database.fetch(Statement(sql, {"org_id": org_id})))

    async def keys(self, chain: Chain) -> list[KeyRecord]:
        """Newest first; read a page at a time, so that a chain with very many delays nobody."""
        sql = (
            f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE created_us < :before "  # noqa: S608
            "OR (created_us = :before AND key_id > :after) ORDER BY created_us DESC, key_id LIMIT :limit"
        )
        found: list[KeyRecord] = []
        page: dict[str, Scalar] = {"before": _NEVER_US, "after": "", "limit": _PAGE}
        while True:
            rows = await self._database.fetch_as(chain, Statement(sql, page))
            found += map(_key, rows)
            if len(rows) < _PAGE:
                return found
            page |= {"before": found[-1].created_us, "after": found[-1].key_id}

    async def open_count(self, chain: Chain, now_us: int, most: int) -> int:
        """The chain's keys that are active at that time; counts no further than ``most``."""
        sql = (
            f"SELECT COUNT(*) AS keys FROM (SELECT 1 FROM api_keys WHERE is_revoked = 0 AND {_ENDS_US} > :now "  # noqa: S608
            "LIMIT :most) AS counted"
        )
        rows = await self._database.fetch_as(chain, Statement(sql, {"now": now_us, "most": most}))
        return cast("int", rows[0]["keys"])

    async def key(self, chain: Chain, key_id: str) -> KeyRecord | None:
        sql = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE key_id = :key_id"  # noqa: S608
        rows = await self._database.fetch_as(chain, Statement(sql, {"key_id": key_id}))
        return _key(rows[0]) if rows else None

    async def key_by_id(self, key_id: str) -> KeyRecord | None:
        """The key with that id, for the operator's commands, which name no tenant."""
        sql = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE key_id = :key_id"  # noqa: S608
        rows = await self._database.fetch(Statement(sql, {"key_id": key_id}))
        return _key(rows[0]) if rows else None

    async def key_by_hash(self, secret_hash: str) -> KeyRecord | None:
        """The key with that hash, for authentication, which learns the tenant from the key."""
        sql = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE secret_hash = :secret_hash"  # noqa: S608
        rows = await self._database.fetch(Statement(sql, {"secret_hash": secret_hash}))
        return _key(rows[0]) if rows else None

    async def chains(self) -> AsyncIterator[Chain]:
        """The chains that have keys."""
        sql = "SELECT DISTINCT org_id, environment FROM api_keys"
        for row in await self._database.fetch(Statement(sql)):
            yield chain_in(row)

    async def page(self, after_id: str) -> list[KeyRecord]:
        """A page of the keys of all chains, by id; empty after the last one."""
        sql = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE key_id > :after ORDER BY key_id LIMIT :limit"  # noqa: S608
        rows = await self._database.fetch(Statement(sql, {"after": after_id, "limit": _PAGE}))
        return list(map(_key, rows))

    async def adopt(self, key: KeyRecord) -> None:
        """Give a key its MAC, unless it was changed since it was read."""
        mac = await self._macs.make(key.sealed)
        sql = f"UPDATE api_keys SET mac = :mac WHERE {_AS_READ}"  # noqa: S608
        await self._database.transaction([_COUNT_CHANGE, Statement(sql, {"mac": mac, **_as_read(key)})])

    async def add_key(self, key: KeyRecord, event: OutboxEvent) -> None:
        insert = _insert_key(key, await self._macs.make(key.sealed))
        await self._database.transaction([_COUNT_CHANGE, insert, self.events.insert(event)])

    async def replace_key(
        self, old: KeyRecord, revoked_us: int, new: KeyRecord, event: OutboxEvent, *, is_revoked: bool = False
    ) -> bool:
        """Store the new key and end the old one at ``revoked_us``; False when the old one was changed meanwhile.

        ``is_revoked``: it ends at once, without a grace.
        """
        ended = replace(old, revoked_us=revoked_us, is_revoked=is_revoked, replaced_by=new.key_id)
        if_claimed = "WHERE EXISTS (SELECT 1 FROM api_keys WHERE key_id = :old_id AND replaced_by = :key_id)"
        insert = _insert_key(new, await self._macs.make(new.sealed), condition=if_claimed, extra={"old_id": old.key_id})
        stored = "WHERE EXISTS (SELECT 1 FROM api_keys WHERE key_id = :new_id)"
        record = self.events.insert(event, stored, {"new_id": new.key_id})
        rows = await self._database.transaction([_COUNT_CHANGE, await self._end(old, ended), insert, record])
        return bool(rows[1])

    async def revoke_key(self, key: KeyRecord, revoked_us: int, event: OutboxEvent) -> bool:
        """End the key for good; ``revoked_us`` is the time shown. False when it was changed since it was read."""
        at_us = revoked_us if key.revoked_us is None else min(key.revoked_us, revoked_us)
        end = await self._end(key, replace(key, revoked_us=at_us, is_revoked=True))
        unchanged = f"WHERE EXISTS (SELECT 1 FROM api_keys WHERE {_AS_READ})"  # noqa: S608
        record = self.events.insert(event, unchanged, _as_read(key))
        rows = await self._database.transaction([_COUNT_CHANGE, record, end])
        return bool(rows[2])

    async def _end(self, old: KeyRecord, ended: KeyRecord) -> Statement:
        """Ends a key that is still as it was read."""
        values: dict[str, Scalar] = {
            "new_revoked_us": ended.revoked_us,
            "new_replaced_by": ended.replaced_by,
            "new_is_revoked": int(ended.is_revoked),
            "new_mac": await self._macs.make(ended.sealed),
        }
        return Statement(
            "UPDATE api_keys SET revoked_us = :new_revoked_us, is_revoked = :new_is_revoked, "  # noqa: S608
            f"replaced_by = :new_replaced_by, mac = :new_mac WHERE {_AS_READ} RETURNING key_id",
            {**values, **_as_read(old)},
        )

    async def touch(self, last_used_us: Mapping[str, int]) -> None:
        """Note when keys were last used."""
        sql = "UPDATE api_keys SET last_used_us = :used WHERE key_id = :key_id AND COALESCE(last_used_us, 0) < :used"
        await self._database.transaction(
            [Statement(sql, {"used": used, "key_id": key_id}) for key_id, used in sorted(last_used_us.items())]
        )

    async def change_count(self) -> int:
        """A count that grows with every change of a key by any process."""
        rows = await self._database.fetch(Statement("SELECT changes FROM api_key_changes WHERE id = 1"))
        return cast("int", rows[0]["changes"])


_COUNT_CHANGE = Statement("UPDATE api_key_changes SET changes = changes + 1 WHERE id = 1")
"""The first statement of every transaction that changes a key: the row's lock serialises changes on all nodes."""


def _organisation_values(organisation: Organisation) -> dict[str, Scalar]:
    return {"org_id": organisation.org_id, "name": organisation.name, "created_us": organisation.created_us}


_AS_READ = (
    "key_id = :key_id AND COALESCE(revoked_us, -1) = :revoked_us AND COALESCE(replaced_by, '') = :replaced_by "
    "AND is_revoked = :is_revoked"
)
"""That the key did not end since it was read; nothing else of it changes."""


def _as_read(key: KeyRecord) -> dict[str, Scalar]:
    return {
        "key_id": key.key_id,
        "revoked_us": -1 if key.revoked_us is None else key.revoked_us,
        "replaced_by": key.replaced_by or "",
        "is_revoked": int(key.is_revoked),
    }


def _insert_key(
    key: KeyRecord, mac: str | None, *, condition: str = "", extra: Mapping[str, Scalar] | None = None
) -> Statement:
    row = {**key.sealed.values, "mac": mac}
    values = ", ".join(f":{name}" for name in row)
    sql = f"INSERT INTO api_keys ({', '.join(row)}) SELECT {values} {condition}"
    return Statement(sql, {**row, **(extra or {})})


def _key(row: Row) -> KeyRecord:
    scopes = cast("tuple[Scope, ...]", tuple(str(row["scopes"]).split()))
    return KeyRecord(
        str(row["key_id"]),
        chain_in(row),
        str(row["prefix"]),
        str(row["last_four"]),
        scopes,
        cast("int", row["created_us"]),
        cast("int | None", row["expires_us"]),
        cast("int | None", row["revoked_us"]),
        cast("str | None", row["replaced_by"]),
        cast("int | None", row["last_used_us"]),
        bool(row["is_revoked"]),
        str(row["secret_hash"]),
        cast("str | None", row["mac"]),
    )
