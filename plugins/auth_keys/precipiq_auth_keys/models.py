"""The requests and answers of the key endpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictInt

from precipiq_contracts.auth import Scope
from precipiq_core.http.validation import Moment, RequestModel


class KeyIn(RequestModel):
    """A key to make, for the caller's own organisation and environment."""

    scopes: list[Scope] = Field(default=["write", "read"], min_length=1, max_length=4)
    expires_at: Moment | None = None


class RotationIn(RequestModel):
    """How to replace a key. ``grace_seconds``: how long the old one goes on working."""

    grace_seconds: Annotated[StrictInt, Field(ge=0, le=10**9)] = 0


class KeyOut(BaseModel):
    """A key, without its secret. ``revoked_at`` may lie ahead: the end of a rotation's grace."""

    id: str
    prefix: str
    last_four: str
    environment: Literal["live", "test"]
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    replaced_by: str | None


class NewKeyOut(KeyOut):
    """A new key. ``key`` is shown this once and stored nowhere."""

    key: str


class KeyList(BaseModel):
    """Keys of the caller's organisation and environment, newest first."""

    items: list[KeyOut]
    next_cursor: str | None
