"""The base class of every plugin, which is the whole extension surface: one typed method per hook, with its default.

A plugin is a class named in the entry point group ``precipiq``. Core makes one instance per application from the
plugin's table in the deployment. pluggy calls each hook once, at boot, plugin by plugin in the order of the graph.
Hooks are synchronous and return objects; the objects have the asynchronous methods. A request never calls a hook.

Each hook returns a sequence (``lifespan`` one context manager, ``provide`` nothing). An implementation is marked with
``@hookimpl`` and takes any subset of the arguments. An exception fails the boot and names the plugin and the hook.
Contributions keep their owner's name: ``precipiq plugins --trace`` shows who contributed what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, get_args

from pydantic import BaseModel

from precipiq_contracts.hooks import Hooks, hookimpl, hookspec
from precipiq_contracts.settings import Settings

if TYPE_CHECKING:
    import click
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from precipiq_contracts.auth import Authenticator
    from precipiq_contracts.database import Migration
    from precipiq_contracts.services import Services
    from precipiq_contracts.vault import WrappedSecrets
    from precipiq_core.http.endpoint import Endpoint
    from precipiq_core.http.websocket import WebSocketEndpoint

__all__ = ["API_VERSION", "AnyPlugin", "LayeredMiddleware", "PluginBase", "PluginConfig", "hookimpl"]

API_VERSION = 1

MiddlewareLayer = Literal["edge", "app"]
"""``edge``: outside authentication, sees every request; ``app``: just around the routes."""


@dataclass(frozen=True, slots=True)
class LayeredMiddleware:
    """An ASGI wrapper and the layer it belongs to. ``wrap`` never sees the lifespan scope, nor a key."""

    layer: MiddlewareLayer
    wrap: Callable[[ASGIApp], ASGIApp]

    def __post_init__(self) -> None:
        if self.layer not in get_args(MiddlewareLayer):
            raise ValueError(f"a layer of middleware is one of {get_args(MiddlewareLayer)}, not {self.layer!r}")


PluginConfig = Settings
"""Base of a plugin's configuration."""


ConfigT = TypeVar("ConfigT", bound=BaseModel)


class PluginBase(Generic[ConfigT]):
    """Subclass this, set the class variables, and override the hooks you need, each marked ``@hookimpl``.

    ``provides``, ``requires``, ``optional``: capability types (Protocols of ``precipiq_contracts`` or your own).
    The graph they form gives the boot order. ``api``: the version of this interface that the plugin was written for.
    ``owns``: classes whose ``@hookspec`` methods are hooks of this plugin's own, which it calls in :meth:`gather`.
    """

    name: ClassVar[str]
    api: ClassVar[int] = API_VERSION
    Config: ClassVar[type[BaseModel]] = PluginConfig
    provides: ClassVar[tuple[type, ...]] = ()
    requires: ClassVar[tuple[type, ...]] = ()
    optional: ClassVar[tuple[type, ...]] = ()
    owns: ClassVar[tuple[type, ...]] = ()

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def check_serving(self) -> None:
        """Raise ``DeploymentError`` with what would keep the plugin from serving, each by its setting's path.

        No hook itself. When: in processes that serve and by ``precipiq check``, before any hook. Files and variables
        that settings name are looked at; no socket or database is opened, and nothing is made.
        """

    def gather(self, hooks: Hooks, services: Services) -> None:
        """Call the hooks that the plugin owns: ``hooks.collect("my_hook", options=...)``.

        No hook itself. When: once, in boot order, after every ``provide``.
        """

    @hookspec
    def provide(self, services: Services) -> None:
        """Register the capabilities that the plugin declares in ``provides``.

        When: first, in boot order, so that what the plugin requires is already there.
        Example: ``services.provide(RateLimiter, MyLimiter(self.config))``.
        Errors: a type that was not declared, a declared one left out and a second provider fail the boot.
        """

    @hookspec
    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        """Where the plugin stores what it had wrapped by the `KeyVault`, so that `precipiq vault rewrap` reaches it.

        Example: ``return [WebhookSecrets(self.store)]``, with a unique ``name``, ``all`` and ``replace``.
        """
        return ()

    @hookspec
    def migrations(self, services: Services) -> Sequence[Migration]:
        """The plugin's tables, as Alembic branches; run by ``precipiq migrate`` under a lock, never by a worker.

        Example: ``return [Migration("notes", Path(__file__).parent / "sql", {"notes": ("org_id", None)})]``.
        """
        return ()

    @hookspec
    def routes(self, services: Services) -> Sequence[Endpoint | WebSocketEndpoint | BaseRoute]:
        """Typed endpoints, mounted under ``/api/v1`` unless their path is absolute, and any route of Starlette's.

        Those of Starlette's get the layers of core, and no authentication. Two for one path and method fail the boot,
        as does a path below what another plugin mounts.
        Example: ``return [Endpoint("GET", "/notes", list_notes, scope="read", output=NoteList)]``.
        """
        return ()

    @hookspec
    def middleware(self, services: Services) -> Sequence[LayeredMiddleware]:
        """ASGI wrappers. Within a layer the first plugin in boot order is outermost.

        Example: ``return [LayeredMiddleware("app", lambda app: Timing(app))]``.
        """
        return ()

    @hookspec
    def authenticators(self, services: Services) -> Sequence[Authenticator]:
        """What turns a credential into a principal, asked in boot order until one accepts.

        Without any, every endpoint that has a scope answers 401. Example: ``return [KeyAuthenticator(...)]``.
        """
        return ()

    @hookspec
    def commands(self, services: Services) -> Sequence[click.Command]:
        """Subcommands of ``precipiq``. A name that is taken fails the boot.

        Groups of the same name become one: each adds its subcommands, the first in the deployment gives the help.
        Example: ``return [click.Group("notes", commands=[...])]``. ``precipiq_core.cli`` runs them inside the lifespan.
        """
        return ()

    @hookspec
    def secret_names(self, services: Services) -> Sequence[str]:
        """Names of fields, headers and parameters whose values no log line may show.

        Example: ``return ["acme-signature"]``. Matched without regard to case, ``-`` and ``_`` alike.
        """
        return ()

    @hookspec
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        """Start and stop as one block; entered in boot order, left in reverse.

        What it raises on entering ends the start; the process exits non-zero. Example: ``return self._run()`` with
        ``@asynccontextmanager``.
        """
        return nullcontext()


AnyPlugin: TypeAlias = PluginBase[Any]
"""A plugin, whatever its configuration."""
