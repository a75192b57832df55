"""The base class of every plugin: one typed method per hook, each empty by default.

A plugin is a class named in the entry point group ``precipiq``. Core makes one instance per application from the
plugin's table in the deployment, and calls each hook once, at boot. Hooks are synchronous and return objects; the
objects have the asynchronous methods. A request never calls a hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import pluggy
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import click

    from precipiq_contracts.auth import Authenticator
    from precipiq_contracts.chain import EntryKind
    from precipiq_contracts.database import Migration
    from precipiq_contracts.entry_store import EntryStoreDriver
    from precipiq_contracts.followers import Follower
    from precipiq_contracts.vault import WrappedSecrets
    from precipiq_core.hookspecs import LayeredMiddleware
    from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
    from precipiq_core.http.websocket import WebSocketEndpoint
    from precipiq_core.services import Services

API_VERSION = 1

hookimpl = pluggy.HookimplMarker("precipiq")


class PluginConfig(BaseModel):
    """Base of a plugin's configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


ConfigT = TypeVar("ConfigT", bound=PluginConfig)


class PluginBase(Generic[ConfigT]):
    """Subclass this, set the class variables, and override the hooks you need, each marked ``@hookimpl``.

    ``provides``, ``requires``, ``optional``: capability types (Protocols of ``precipiq_contracts`` or your own).
    The graph they form gives the boot order. ``api``: the version of this interface that the plugin was written for.
    """

    name: ClassVar[str]
    api: ClassVar[int] = API_VERSION
    Config: ClassVar[type[PluginConfig]] = PluginConfig
    provides: ClassVar[tuple[type, ...]] = ()
    requires: ClassVar[tuple[type, ...]] = ()
    optional: ClassVar[tuple[type, ...]] = ()

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def provide(self, services: Services) -> None:
        """Register exactly the declared ``provides``: ``services.provide(Type, value)``."""

    def entry_store_drivers(self, services: Services) -> Sequence[EntryStoreDriver]:
        return ()

    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        return ()

    def routes(self, services: Services) -> Sequence[Endpoint | PlainEndpoint | WebSocketEndpoint]:
        return ()

    def middleware(self, services: Services) -> Sequence[LayeredMiddleware]:
        return ()

    def authenticators(self, services: Services) -> Sequence[Authenticator]:
        return ()

    def followers(self, services: Services) -> Sequence[Follower]:
        return ()

    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    def migrations(self, services: Services) -> Sequence[Migration]:
        return ()

    def commands(self, services: Services) -> Sequence[click.Command]:
        return ()

    def secret_names(self, services: Services) -> Sequence[str]:
        return ()

    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        return ()


AnyPlugin: TypeAlias = PluginBase[Any]
"""A plugin, whatever its configuration."""
