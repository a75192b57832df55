"""Wiring: what the plugin contributes. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acme_plugin.command_index import COMMANDS
from acme_plugin.config import AcmeConfig
from acme_plugin.driver import JsonlDriver, JsonlLimits
from acme_plugin.pages import PageRoutes
from acme_plugin.routes import NoteRoutes
from acme_plugin.service import NOTE, Notes
from precipiq_contracts.chain import EntryKind
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.services import Services
from precipiq_core.http.endpoint import Endpoint
from precipiq_core.plugin import LayeredMiddleware, PluginBase, hookimpl

if TYPE_CHECKING:
    import click


class AcmePlugin(PluginBase[AcmeConfig]):
    """Notes beside the decisions."""

    name = "acme"
    Config = AcmeConfig
    requires: ClassVar[tuple[type, ...]] = (Ledger,)

    @hookimpl
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        return [EntryKind(NOTE, "a note was written", body_fields=("author",), payload_fields=("text",))]

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint | BaseRoute]:
        notes = Notes(services.get(Ledger), self.config.text_characters_max)
        return [*NoteRoutes(notes).endpoints(), *PageRoutes(notes, self.config.text_characters_max).routes()]

    @hookimpl
    def entry_store_drivers(self, services: Services) -> Sequence[EntryStoreDriver]:
        folder = services.get(DeploymentInfo).data_dir / self.config.entries_dir
        return [JsonlDriver(folder, JsonlLimits(entries_max=self.config.entries_max))]

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def middleware(self, services: Services) -> Sequence[LayeredMiddleware]:
        return [LayeredMiddleware("app", Greeting)]

    @hookimpl
    def secret_names(self, services: Services) -> Sequence[str]:
        return ["acme-signature"]


class Greeting:
    """Adds a response header: a pure ASGI wrapper, which never sees the lifespan scope or a key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def greeting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-acme", b"hello")]
            await send(message)

        await self._app(scope, receive, greeting_send)
