"""The whole extension surface. Every hook is synchronous, is called once at boot and takes one argument.

Each returns a sequence (``lifespan`` one context manager, ``provide`` nothing). An exception fails the boot and names
the plugin and the hook. Contributions keep their owner's name: ``precipiq plugins`` shows who contributed what.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    import click
    from starlette.types import ASGIApp

    from precipiq_contracts.auth import Authenticator
    from precipiq_contracts.chain import EntryKind
    from precipiq_contracts.database import Migration
    from precipiq_contracts.entry_store import EntryStoreDriver
    from precipiq_contracts.followers import Follower
    from precipiq_contracts.vault import WrappedSecrets
    from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
    from precipiq_core.http.websocket import WebSocketEndpoint
    from precipiq_core.services import Services

hookspec = pluggy.HookspecMarker("precipiq")

MiddlewareLayer = Literal["edge", "app"]
"""``edge``: outside authentication, sees every request; ``app``: just around the routes."""


@dataclass(frozen=True, slots=True)
class LayeredMiddleware:
    """An ASGI wrapper and the layer it belongs to. ``wrap`` never sees the lifespan scope, nor a key."""

    layer: MiddlewareLayer
    wrap: Callable[[ASGIApp], ASGIApp]


class HookSpecs(Protocol):
    """The hooks in the order in which core calls them."""

    @hookspec
    def provide(self, services: Services) -> None:
        """Register the capabilities that the plugin declares in ``provides``.

        When: first, in boot order, so that what the plugin requires is already there.
        Example: ``services.provide(RateLimiter, MyLimiter(self.config))``.
        Errors: a type that was not declared, a declared one left out and a second provider fail the boot.
        """

    @hookspec
    def entry_store_drivers(self, services: Services) -> Sequence[EntryStoreDriver]:
        """Entry store drivers by unique name; the plugin that seals (``ledger``) opens the one the deployment names.

        When: after all ``provide``. Example: ``return [MyDriver(self.config.bucket)]``.
        """

    @hookspec
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        """Kinds of entry that the plugin appends. A draft of an unregistered kind is refused.

        Example: ``return [EntryKind("invoice", "an invoice was sent", body_fields=("amount",))]``.
        """

    @hookspec
    def routes(self, services: Services) -> Sequence[Endpoint | PlainEndpoint | WebSocketEndpoint]:
        """Typed endpoints, mounted under ``/api/v1`` unless their path is absolute; two for one path and method fail.

        Example: ``return [Endpoint("GET", "/notes", list_notes, scope="read", output=NoteList)]``.
        """

    @hookspec
    def middleware(self, services: Services) -> Sequence[LayeredMiddleware]:
        """ASGI wrappers. Within a layer the first plugin in boot order is outermost.

        Example: ``return [LayeredMiddleware("app", lambda app: Timing(app))]``.
        """

    @hookspec
    def authenticators(self, services: Services) -> Sequence[Authenticator]:
        """What turns a credential into a principal, asked in boot order until one accepts.

        Without any, every endpoint that has a scope answers 401. Example: ``return [KeyAuthenticator(...)]``.
        """

    @hookspec
    def followers(self, services: Services) -> Sequence[Follower]:
        """What keeps up with every chain: projections, workers that react to entries. Each has its own cursor.

        Example: ``return [Totals(self.store, services.get(Ledger))]``, with a unique ``name`` and ``catch_up(chain)``.
        Called in serving processes while the ledger is open; never twice at once for a chain in a process.
        """

    @hookspec
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        """Start and stop as one block; entered in boot order, left in reverse.

        What it raises on entering ends the start; the process exits non-zero. Example: ``return self._run()`` with
        ``@asynccontextmanager``.
        """

    @hookspec
    def migrations(self, services: Services) -> Sequence[Migration]:
        """The plugin's tables, as Alembic branches; run by ``precipiq migrate`` under a lock, never by a worker.

        Example: ``return [Migration("notes", Path(__file__).parent / "sql", {"notes": ("org_id", None)})]``.
        """

    @hookspec
    def commands(self, services: Services) -> Sequence[click.Command]:
        """Subcommands of ``precipiq``. A name that is taken fails the boot.

        Groups of the same name become one: each adds its subcommands, the first in the deployment gives the help.
        Example: ``return [click.Group("notes", commands=[...])]``. ``precipiq_core.cli`` runs them inside the lifespan.
        """

    @hookspec
    def secret_names(self, services: Services) -> Sequence[str]:
        """Names of fields, headers and parameters whose values no log line may show.

        Example: ``return ["acme-signature"]``. Matched without regard to case, ``-`` and ``_`` alike.
        """

    @hookspec
    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        """Where the plugin stores what it had wrapped by the `KeyVault`, so that `precipiq vault rewrap` reaches it.

        Example: ``return [WebhookSecrets(self.store)]``, with a unique ``name``, ``all`` and ``replace``.
        """
