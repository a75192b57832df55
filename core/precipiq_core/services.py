"""The capabilities of one application. Asked at boot, never during a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from precipiq_core.errors import DeploymentError

T = TypeVar("T")


class Services:
    """Type -> value, one provider each. ``ping`` of a provided value (when it has one) feeds ``/readyz``.

    ``fill``: lets everybody provide, when something is asked for that was not filled before.
    """

    def __init__(self, fill: Callable[[Services], None] | None = None) -> None:
        self._fill = fill
        self._values: dict[type, object] = {}
        self._owners: dict[type, str] = {}
        self._pings: dict[str, Callable[[], Awaitable[None]]] = {}
        self._owner = "core"
        self._declared: frozenset[type] | None = None

    def fill(self) -> None:
        """Let everybody provide, unless that was done."""
        fill, self._fill = self._fill, None
        if fill is not None:
            owner, declared = self._owner, self._declared
            self.acting_as("core", None)
            fill(self)
            self.acting_as(owner, declared)

    def provide(self, capability: type[T], value: T) -> None:
        """Register ``value`` as the provider. Raises ``DeploymentError`` for a second or an undeclared one."""
        if self._declared is not None and capability not in self._declared:
            name = capability.__name__
            raise DeploymentError([f"plugin {self._owner} provides {name} without declaring it in provides"])
        self.keep(capability, value)

    def keep(self, part: type[T], value: T) -> None:
        """Register a part of the plugin's own, for its commands and routes; nothing that others ask for.

        It is not declared, so that loading the plugin need not import it. Raises ``DeploymentError`` for a second one.
        """
        name = part.__name__
        if part in self._owners:
            raise DeploymentError([f"{name} is provided by both {self._owners[part]} and {self._owner}"])
        self._values[part] = value
        self._owners[part] = self._owner
        ping = getattr(value, "ping", None)
        if callable(ping):
            self._pings[name] = cast("Callable[[], Awaitable[None]]", ping)

    def get(self, capability: type[T]) -> T:
        """The provider of that capability. Raises ``DeploymentError`` when there is none."""
        self.fill()
        if capability not in self._owners:
            raise DeploymentError([f"plugin {self._owner} asks for {capability.__name__}, which nothing provides"])
        return cast("T", self._values[capability])

    def find(self, capability: type[T]) -> T | None:
        """As :meth:`get`, but None when nothing provides it: for what a plugin declares ``optional``."""
        self.fill()
        return self.get(capability) if capability in self._owners else None

    @property
    def owners(self) -> dict[type, str]:
        """Capability -> name of the plugin that provides it."""
        return dict(self._owners)

    @property
    def pings(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Name of the capability -> its health check."""
        return dict(self._pings)

    def acting_as(self, owner: str, declared: frozenset[type] | None) -> None:
        """Whose turn it is during boot; ``declared`` limits what it may provide (None: anything)."""
        self._owner = owner
        self._declared = declared
