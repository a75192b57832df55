"""The capabilities of one application: a guarded face over ``svcs``. Asked at boot, never during a request."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from precipiq_core.errors import DeploymentError

# svcs imports its ties to every web framework that happens to be installed, and with them the framework: half a second
# of each start, of which nothing is used here.
_TIES = ("svcs.aiohttp", "svcs.fastapi", "svcs.flask", "svcs.starlette")
_left_out = [name for name in _TIES if name not in sys.modules]
sys.modules.update(dict.fromkeys(_left_out))  # type: ignore[arg-type]
import svcs  # noqa: E402

for _name in _left_out:
    del sys.modules[_name]

T = TypeVar("T")


class Services:
    """Type -> value, one provider each. ``ping`` of a provided value (when it has one) feeds ``/readyz``."""

    def __init__(self) -> None:
        self._registry = svcs.Registry()
        self._container = svcs.Container(self._registry)
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
        self._registry.register_value(capability, value)
        self._owners[capability] = self._owner
        ping = getattr(value, "ping", None)
        if callable(ping):
            self._pings[name] = cast("Callable[[], Awaitable[None]]", ping)

    def get(self, capability: type[T]) -> T:
        """The provider of that capability. Raises ``DeploymentError`` when there is none."""
        if capability not in self._owners:
            raise DeploymentError([f"plugin {self._owner} asks for {capability.__name__}, which nothing provides"])
        return self._container.get_abstract(capability)  # type: ignore[no-any-return]

    def find(self, capability: type[T]) -> T | None:
        """As :meth:`get`, but None when nothing provides it: for what a plugin declares ``optional``."""
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
