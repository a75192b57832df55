"""WebSocket endpoints: what a plugin declares. Its own application takes the handshake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.types import ASGIApp

from precipiq_contracts.auth import Scope
from precipiq_core.http.endpoint_app import Edge


@dataclass(frozen=True, slots=True)
class WebSocketEndpoint:
    """A WebSocket at an absolute path. ``handler``'s docstring is its description in OpenAPI.

    ``scope``: what the key must allow. ``query``: the model of its parameters. ``make_app``: given the endpoint and
    what all endpoints share, makes the application that asks ``http/authentication``, and refuses or serves.
    """

    path: str
    handler: Callable[[Any], Awaitable[None]]
    scope: Scope
    query: type[BaseModel]
    make_app: Callable[[WebSocketEndpoint, Edge], ASGIApp]
