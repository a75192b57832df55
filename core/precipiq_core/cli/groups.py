"""The commands that plugins contribute, as one tree: groups of the same name become one."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import click

from precipiq_contracts.contribution import Contribution
from precipiq_core.cli.later import Later

_CORE_COMMANDS = ("serve", "check", "migrate", "plugins")


def merge_commands(
    contributions: Iterable[Contribution[click.Command]], problems: list[str]
) -> dict[str, click.Command]:
    """All contributed commands by name; the contributed objects stay unchanged, since other applications may use them.

    Adds a sentence for each name that two plugins claim. Groups of the same name become one group.
    """
    commands: dict[str, click.Command] = {}
    owners = dict.fromkeys(_CORE_COMMANDS, "core")
    for item in contributions:
        name, command = item.value.name or "", item.value.load() if isinstance(item.value, Later) else item.value
        present = commands.get(name)
        if isinstance(present, click.Group) and isinstance(command, click.Group):
            present = commands[name] = copy.copy(present)
            present.commands = {**present.commands, **_claim(name, command, item.owner, owners, problems)}
            if command.params:
                problems.append(
                    f"command group {name!r}: {item.owner} gives it options, but it is {owners[name]}'s: "
                    "give them to the subcommands"
                )
        elif _is_new(name, item.owner, owners, problems):
            commands[name] = command
            if isinstance(command, click.Group):
                _claim(name, command, item.owner, owners, problems)
    return commands


def _claim(
    name: str, group: click.Group, owner: str, owners: dict[str, str], problems: list[str]
) -> dict[str, click.Command]:
    return {
        subname: command
        for subname, command in group.commands.items()
        if _is_new(f"{name} {subname}", owner, owners, problems)
    }


def _is_new(path: str, owner: str, owners: dict[str, str], problems: list[str]) -> bool:
    if path in owners:
        problems.append(f"command {path!r} is contributed by both {owners[path]} and {owner}")
        return False
    owners[path] = owner
    return True
