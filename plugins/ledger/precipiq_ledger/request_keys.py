"""`Idempotency-Key` headers and the requests that they name, in the deployment's database."""

from __future__ import annotations

import hmac
from functools import cached_property

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database, Statement
from precipiq_contracts.errors import IdempotencyConflict
from precipiq_contracts.vault import MasterKey
from precipiq_core.chain_columns import chain_values

KEY_PURPOSE = "precipiq/request-keys/1"

_CHAIN = "org_id = :org_id AND environment = :environment"
_BIND = """
INSERT INTO request_keys (org_id, environment, name, content, created_us)
VALUES (:org_id, :environment, :name, :content, :created_us)
ON CONFLICT (org_id, environment, name) DO NOTHING RETURNING name
"""
_BOUND = f"SELECT content FROM request_keys WHERE {_CHAIN} AND name = :name"  # noqa: S608
_RELEASE = f"DELETE FROM request_keys WHERE {_CHAIN} AND name = :name AND content = :content"  # noqa: S608


class StoredRequestKeys:
    """The capability ``precipiq_core.http.request_keys.RequestKeys``.

    Names and contents are stored as HMAC-SHA256 under a key of this deployment: what a redaction erased, or a secret in
    a body, cannot be found by guessing.
    """

    def __init__(self, database: Database, master_key: MasterKey, clock: Clock) -> None:
        self._database = database
        self._master_key = master_key
        self._clock = clock

    async def bind(self, chain: Chain, name: str, content: bytes) -> bool:
        key = {**chain_values(chain), "name": self._digest(name.encode())}
        digest = self._digest(content)
        new, bound = await self._database.transaction(
            [
                Statement(_BIND, {**key, "content": digest, "created_us": self._clock.now_us()}),
                Statement(_BOUND, key),
            ]
        )
        if not new and (not bound or bound[0]["content"] != digest):
            raise IdempotencyConflict
        return bool(new)

    async def release(self, chain: Chain, name: str, content: bytes) -> None:
        parameters = {**chain_values(chain), "name": self._digest(name.encode()), "content": self._digest(content)}
        await self._database.transaction([Statement(_RELEASE, parameters)])

    @cached_property
    def _key(self) -> bytes:
        return self._master_key.derive(KEY_PURPOSE)  # not before: `migrate` has no need of the master key

    def _digest(self, value: bytes) -> str:
        return hmac.digest(self._key, value, "sha256").hex()


class NoRequestKeys:
    """The capability of a deployment without a database: there a key binds only what was recorded under it."""

    async def bind(self, chain: Chain, name: str, content: bytes) -> bool:
        return False

    async def release(self, chain: Chain, name: str, content: bytes) -> None:
        pass
