"""The capabilities of one application: each a type with one provider. Looked up at boot, never during a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from precipiq_contracts.errors import DeploymentError

T = TypeVar("T")


class Services:
    """Type -> value, one provider each. ``ping`` of a provided value (when it has one) feeds ``/readyz``."""

    def __init__(self) -> None:
        self._values: dict[type, object] = {}
        self._owners: dict[type, str] = {}
        self._pings: dict[str, Callable[[], Awaitable[None]]] = {}
        self._owner = "core"
        self._declared: frozenset[type] | None = None

    def provide(self, capability: type[T], value: T) -> None:
        """Register ``value`` as the provider. Raises ``DeploymentError`` for a second or an undeclared one."""
        name = capability.__name__
        if capability in self._owners:
            raise DeploymentError([f"{name} is provided by both {self._owners[capability]} and {self._owner}"])
        if self._declared is not None and capability not in self._declared:
            raise DeploymentError([f"plugin {self._owner} provides {name} without declaring it in provides"])
        self._values[capability] = value
        self._owners[capability] = self._owner
        ping = getattr(value, "ping", None)
        if callable(ping):
            self._pings[name] = cast("Callable[[], Awaitable[None]]", ping)

    def get(self, capability: type[T]) -> T:
        """The provider of that capability. Raises ``DeploymentError`` when there is none."""
        if capability not in self._owners:
            raise DeploymentError([f"plugin {self._owner} asks for {capability.__name__}, which nothing provides"])
        return cast("T", self._values[capability])

    def find(self, capability: type[T]) -> T | None:
        """As :meth:`get`, but None when no plugin provides it: for capabilities declared ``optional``."""
        return self.get(capability) if capability in self._owners else None

    @property
    def owners(self) -> dict[type, str]:
        """Capability -> name of the plugin that provides it."""
        return dict(self._owners)

    @property
    def pings(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Name of the capability -> its health check."""
        return dict(self._pings)

    def act_for(self, owner: str, declared: frozenset[type] | None) -> None:
        """Attribute the next calls to that plugin; ``declared``: the types that it may provide (None: any)."""
        self._owner = owner
        self._declared = declared
