"""The commands of a deployment's plugins as their distributions name them, found without importing a plugin."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

import click

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError
from precipiq_core.cli.groups import merge_commands
from precipiq_core.cli.later import Later

COMMANDS_GROUP = "precipiq.commands"


def indexed_commands(
    enabled: Collection[str], installed: Iterable[EntryPoint] | None = None, by_themselves: Collection[str] = ()
) -> Mapping[str, click.Command] | None:
    """All commands by name; None when a plugin's index is missing or invalid: then only a boot finds the commands.

    ``by_themselves``: plugins that are enabled where they are installed.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=COMMANDS_GROUP) if installed is None else installed:
        if points.setdefault(point.name, point).value != point.value:
            return None
    if not points.keys() >= set(enabled):
        return None
    together: dict[str, list[Contribution[click.Command]]] = {}
    for name in [*(name for name in by_themselves if name in points), *enabled]:
        try:
            for command in points[name].load():
                together.setdefault(command.name, []).append(Contribution(name, command))
        except Exception:  # noqa: BLE001  (an import may fail in any way; the boot reports it)
            return None
    return {name: each[0].value if len(each) == 1 else _Together(each) for name, each in together.items()}


class _Together(Later):
    """A group that several plugins contribute to."""

    def __init__(self, contributions: list[Contribution[click.Command]]) -> None:
        first = contributions[0].value
        super().__init__(first.name or "", first.help or "", "")
        self._contributions = contributions

    def load(self) -> click.Command:
        problems: list[str] = []
        commands = merge_commands(self._contributions, problems)
        if problems:
            raise DeploymentError(problems)
        return commands[self.name or ""]
