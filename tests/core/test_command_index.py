"""Commands that are known before their plugins are imported: the same as those of the booted plugins."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.services import Services
from precipiq_core.boot import assemble
from precipiq_core.cli import main
from precipiq_core.cli.context import CliContext, TerminalConsole
from precipiq_core.cli.index import COMMANDS_GROUP, indexed_commands
from precipiq_core.cli.later import NO_COMMANDS, Later
from precipiq_core.deployment import load_deployment
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_testkit.clock import ManualClock, SeededRandomness

SHIPPED = sorted(["address_limits", *(path.name for path in (Path(__file__).parents[2] / "plugins").iterdir())])
"""That of ``address_limits`` is in the distribution of ``auth_keys``."""
EMBEDDED = Path(__file__).parents[2] / "deployments/embedded/precipiq.toml"

verify = click.Command("verify", callback=lambda: click.echo("verified"), help="Verify it.")
chain_group = click.Group("chain", commands=[verify], help="Chains.")
other_group = click.Group("chain", commands=[click.Command("export", callback=lambda: click.echo("exported"))])
rival_group = click.Group("chain", commands=[click.Command("verify")])
CHAIN = (Later("chain", "Chains.", f"{__name__}:chain_group"),)
OTHER = (Later("chain", "Other chains.", f"{__name__}:other_group"),)
RIVAL = (Later("chain", "Rivals.", f"{__name__}:rival_group"),)


def test_every_shipped_plugin_names_its_commands() -> None:
    assert [point.name for point in sorted(entry_points(group=COMMANDS_GROUP), key=lambda point: point.name)] == SHIPPED


def test_what_the_index_says_is_what_the_booted_plugins_contribute() -> None:
    context = click.Context(main.cli, obj=CliContext())
    context.params["config"] = EMBEDDED
    listed = main.cli.list_commands(context)
    indexed = context.obj.indexed
    assert context.obj.assembly is None, "nothing was booted to list them"

    assembly = assemble(
        load_deployment(EMBEDDED, {}),
        clock=ManualClock(),
        randomness=SeededRandomness(),
        console=TerminalConsole(),
        serving=False,
    )

    assert set(indexed) == set(assembly.command_by_name)
    assert set(listed) == {*main.cli.commands, *indexed}
    for name, command in assembly.command_by_name.items():
        assert _tree(indexed[name].load()) == _tree(command)


@pytest.mark.parametrize("name", ["check", "migrate", "plugins", "serve"])
def test_cores_commands_are_listed_with_the_first_line_of_their_help(name: str) -> None:
    _is_listed_truly(main.cli.commands[name])


@pytest.mark.parametrize("point", entry_points(group=COMMANDS_GROUP), ids=lambda point: point.name)
def test_commands_are_listed_with_the_first_line_of_their_help(point: Any) -> None:
    for command in point.load():
        _is_listed_truly(command)


def _is_listed_truly(command: click.Command) -> None:
    assert isinstance(command, Later)
    assert command.help == (command.load().help or "").partition("\n")[0]
    assert command.name == command.load().name


def _tree(command: click.Command) -> object:
    if isinstance(command, click.Group):
        return {name: _tree(each) for name, each in command.commands.items()}
    return command


def test_groups_of_the_same_name_are_one_group(point: Any) -> None:
    indexed = indexed_commands(["one", "two"], [point("one", CHAIN), point("two", OTHER)])

    assert indexed is not None
    assert list(indexed) == ["chain"]
    assert indexed["chain"].help == "Chains."
    assert [_run(indexed, "chain", name) for name in ("verify", "export")] == ["verified\n", "exported\n"]


def test_subcommands_that_two_claim_are_a_problem_of_the_deployment(point: Any) -> None:
    indexed = indexed_commands(["one", "two"], [point("one", CHAIN), point("two", RIVAL)])

    assert indexed is not None
    with pytest.raises(DeploymentError, match="'chain verify' is contributed by both one and two"):
        _run(indexed, "chain", "verify")


def test_a_plugin_that_names_no_commands_must_be_asked(point: Any) -> None:
    assert indexed_commands(["one", "two"], [point("one", CHAIN)]) is None
    assert indexed_commands(["one", "two"], [point("one", CHAIN), point("two", NO_COMMANDS)]) is not None
    assert indexed_commands(["one"], [point("one", CHAIN), point("broken", ImportError("not enabled"))]) is not None


@pytest.mark.parametrize("named", [ImportError("gone"), ZeroDivisionError("at import"), 7, ["chain"]])
def test_an_index_that_is_not_right_is_not_used(point: Any, named: object) -> None:
    assert indexed_commands(["one"], [point("one", named)]) is None


def test_an_index_that_two_distributions_have_is_not_used(point: Any) -> None:
    assert indexed_commands(["one"], [point("one", CHAIN, "a:C"), point("one", CHAIN, "b:C")]) is None


class Asked(PluginBase[PluginConfig]):
    name = "asked"

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return [*CHAIN, verify]


def test_a_plugin_may_contribute_commands_that_are_imported_later_by_its_hook(boot: Any) -> None:
    assembly = boot(Asked)

    assert assembly.command_by_name == {"chain": chain_group, "verify": verify}


def _run(commands: Any, *arguments: str) -> str:
    done = CliRunner().invoke(click.Group("precipiq", commands=dict(commands)), arguments, catch_exceptions=False)
    return done.output
