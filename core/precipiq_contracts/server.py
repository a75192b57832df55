"""The capability that serves an application over sockets, and the settings of it that core reads."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pydantic import Field, field_validator

from precipiq_contracts.settings import Settings

AsgiMessage: TypeAlias = MutableMapping[str, Any]
AsgiApp: TypeAlias = Callable[
    [AsgiMessage, Callable[[], Awaitable[AsgiMessage]], Callable[[AsgiMessage], Awaitable[None]]], Awaitable[None]
]

FRAMES = "precipiq.websocket.frames"
"""Extension of ASGI that a server may have: a message of this type holds frames, encoded once for many clients."""


class ServerSettings(Settings):
    """The part of ``[server]`` that core reads. The plugin that provides ``Server`` derives its ``Config`` from it."""

    bind: str = Field("127.0.0.1:8000", description="host:port")
    workers: int = Field(
        1, ge=1, le=64, description="processes that serve; more than one needs a database that they can share"
    )
    header_bytes_max: int = Field(16 * 1024, ge=1024, description="request line and headers, bytes")
    header_fields_max: int = Field(100, ge=10, description="header fields of a request")

    @field_validator("bind")
    @classmethod
    def _names_host_and_port(cls, value: str) -> str:
        if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):[0-9]{1,5}", value):
            raise ValueError("write host:port, such as 127.0.0.1:8000")
        if int(value.rpartition(":")[2]) > 65535:
            raise ValueError("a port is at most 65535")
        return value

    @property
    def is_secure(self) -> bool:
        """Whether clients reach it by https."""
        return False

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The address to bind."""
        host, _, port = self.bind.rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Site:
    """An application that booted, as its server sees it.

    ``app``: without the lifespan scope, which is ``lifespan``: entered once the server may serve, left when it ends.
    ``open_console``: the server calls it when it accepts requests; it shows the operator the deferred text.
    ``say_serving``: logs that the server is ready; takes the addresses and further fields. ``command``: starts this
    deployment in another process; ``--worker SEAT`` gives its place. ``SEAT`` begins with its number and a colon.
    """

    app: AsgiApp
    lifespan: AbstractAsyncContextManager[object]
    open_console: Callable[[], None]
    say_serving: Callable[..., None]
    command: Sequence[str]


class Server(Protocol):
    """Capability: serves a site until a signal stops it. One plugin provides it; its settings are ``[server]``."""

    def run(self, site: Site) -> int:
        """Serve until SIGTERM or SIGINT; the exit code: 0 after a clean stop, 2 could not start, 3 crashed.

        A fault of the address or the certificate is logged, as is the end.
        """
        ...
