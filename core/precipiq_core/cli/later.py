"""Commands that are listed before they are imported: a command does not pay for the imports of the others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click


class Later(click.Command):
    """A proxy for the command or group at ``where`` (``module:attribute``), which is imported when it is entered.

    ``help``: the first line of its help, which lists show.
    """

    def __init__(self, name: str, help: str, where: str) -> None:
        super().__init__(name, help=help)
        self._where = where

    def load(self) -> click.Command:
        """The command itself."""
        module, _, attribute = self._where.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return self.load().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return ctx.command.invoke(ctx)


NO_COMMANDS: Sequence[click.Command] = ()
"""The entry of a plugin without commands in the group ``precipiq.commands``, so that it need not be booted."""
