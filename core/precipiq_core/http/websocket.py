"""WebSocket endpoints: the declarations of plugins. The plugin's own application does the handshake."""

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

    ``scope``: of the key. ``query``: the model of its parameters. ``make_app``: takes the endpoint and the parts that
    all endpoints share; makes the application that calls ``http/authentication``, and refuses or serves.
    """

    path: str
    handler: Callable[[Any], Awaitable[None]]
    scope: Scope
    query: type[BaseModel]
    make_app: Callable[[WebSocketEndpoint, Edge], ASGIApp]
