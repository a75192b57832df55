"""The key endpoints: from the request's model to the service and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from precipiq_auth_keys import models
from precipiq_auth_keys.config import AuthKeysConfig
from precipiq_auth_keys.records import key_record, new_key_record
from precipiq_auth_keys.service import KeyService
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.errors import ValidationFailed
from precipiq_core.http.cursors import PageQuery, page_of
from precipiq_core.http.endpoint import Call, Endpoint, NoBody, NoQuery, Reply
from precipiq_core.http.settings import HttpSettings


class KeyRoutes:
    """Handlers of the key endpoints; all need the scope ``admin``."""

    def __init__(self, service: KeyService, config: AuthKeysConfig, http: HttpSettings) -> None:
        self._service = service
        self._config = config
        self._http = http

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        by_id = {"id": "a key's id"}
        return [
            Endpoint("GET", "/api-keys", self.list_keys, "admin", models.KeyList, query=PageQuery),
            Endpoint(
                "POST",
                "/api-keys",
                self.create_key,
                "admin",
                models.NewKeyOut,
                body=models.KeyIn,
                status=201,
                errors=("too_many_keys",),
            ),
            Endpoint(
                "POST",
                "/api-keys/{id}/rotate",
                self.rotate_key,
                "admin",
                models.NewKeyOut,
                body=models.RotationIn,
                status=201,
                errors=("key_not_active", "too_many_keys"),
                path_parameters=by_id,
            ),
            Endpoint(
                "DELETE", "/api-keys/{id}", self.revoke_key, "admin", models.KeyOut, rate="write", path_parameters=by_id
            ),
        ]

    async def list_keys(self, call: Call[NoBody, PageQuery]) -> object:
        """List the keys of the caller's organisation and environment, newest first, ended ones included.

        Without `limit` all of them.
        """
        keys, next_cursor = page_of("api_keys", await self._service.keys(call.principal.chain), call.query, self._http)
        return {"items": [key_record(key) for key in keys], "next_cursor": next_cursor}

    async def create_key(self, call: Call[models.KeyIn, NoQuery]) -> Reply:
        """Make a key for the caller's own organisation and environment.

        The answer is the only place where the key ever appears.
        """
        _refuse_idempotency_key(call)
        expires_us = None if call.body.expires_at is None else parse_timestamp(call.body.expires_at)
        chain = call.principal.chain
        new = await self._service.create_key(
            chain.org_id, chain.environment, call.body.scopes, expires_us, call.principal.key_id
        )
        return Reply(new_key_record(new))

    async def rotate_key(self, call: Call[models.RotationIn, NoQuery]) -> Reply:
        """Replace a key by a new one with the same scopes.

        The old key goes on working for ``grace_seconds``, then it ends everywhere within 5 seconds.
        """
        _refuse_idempotency_key(call)
        grace_s = call.body.grace_seconds
        if grace_s > self._config.rotation_grace_max_s:
            raise ValidationFailed(details={"grace_seconds": [f"must be <= {self._config.rotation_grace_max_s}"]})
        new = await self._service.rotate(call.principal.chain, call.path["id"], grace_s, call.principal.key_id)
        return Reply(new_key_record(new))

    async def revoke_key(self, call: Call[NoBody, NoQuery]) -> object:
        """Revoke a key: it stops working everywhere within 5 seconds. Repeating it changes nothing."""
        return key_record(await self._service.revoke(call.principal.chain, call.path["id"], call.principal.key_id))


def _refuse_idempotency_key(call: Call[Any, Any]) -> None:
    """Refuse the header: a key is shown once and stored nowhere, so its answer cannot be repeated."""
    if call.idempotency_key is not None:
        problem = "is not possible here: an answer that holds a key is never stored"
        raise ValidationFailed(details={"Idempotency-Key": [problem]})
