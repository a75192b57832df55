"""Commands of several plugins as one tree, and what ``precipiq check`` says of contributions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from precipiq_contracts.registries import WrappedSecretsRegistry
from precipiq_contracts.services import Services
from precipiq_contracts.vault import WrappedSecret, WrappedSecrets
from precipiq_core.boot import Assembly
from precipiq_core.cli import check, main
from precipiq_core.cli.context import CliContext
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl

Problems = Callable[..., list[str]]


def command(name: str, said: str = "done") -> click.Command:
    return click.Command(name, callback=lambda: click.echo(said), help=f"the {name} of {said}")


def group(name: str, *commands: click.Command, **options: Any) -> click.Group:
    return click.Group(name, commands=list(commands), **options)


class Tiny(PluginBase[PluginConfig]):
    contributed: Sequence[click.Command] = ()
    secrets: Sequence[WrappedSecrets] = ()

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return self.contributed

    @hookimpl
    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        return self.secrets


def plugin(plugin_name: str, *contributed: click.Command, secrets: Sequence[WrappedSecrets] = ()) -> Any:
    return type("Made", (Tiny,), {"name": plugin_name, "contributed": contributed, "secrets": secrets})


def run(assembly: Assembly, *arguments: str) -> Result:
    return CliRunner().invoke(main.cli, arguments, obj=CliContext(assembly))


def test_groups_of_the_same_name_have_the_subcommands_of_both(boot: Any) -> None:
    one = group("chain", command("verify", "one"), help="the first one's")
    two = group("chain", command("export", "two"), help="the second one's")
    assembly = boot(plugin("one", one), plugin("two", command("other"), two))

    assert run(assembly, "chain", "verify").output == "one\n"
    assert run(assembly, "chain", "export").output == "two\n"
    page = run(assembly, "chain", "--help").output
    assert "the first one's" in page
    assert "the second one's" not in page
    assert all(f"the {name}" in page for name in ("verify", "export"))
    assert {"chain", "other", "serve"} <= set(main.cli.list_commands(click.Context(main.cli, obj=CliContext(assembly))))


def test_what_the_plugins_contributed_stays_as_it_was(boot: Any) -> None:
    one, two = group("chain", command("verify")), group("chain", command("export"))
    first = boot(plugin("one", one), plugin("two", two))
    second = boot(plugin("one", one))

    assert (list(one.commands), list(two.commands)) == (["verify"], ["export"])
    assert run(second, "chain", "export").exit_code == 2
    assert run(first, "chain", "export").exit_code == 0


def test_three_plugins_may_share_a_group(boot: Any) -> None:
    assembly = boot(*(plugin(name, group("chain", command(name))) for name in ("one", "two", "three")))

    assert [run(assembly, "chain", name).exit_code for name in ("one", "two", "three")] == [0, 0, 0]


def test_a_subcommand_that_two_claim_fails_the_boot(boot_problems: Problems) -> None:
    one, two = group("chain", command("verify")), group("chain", command("export"), command("verify"))
    three = group("chain", command("export"))

    assert boot_problems(plugin("one", one), plugin("two", two), plugin("three", three)) == [
        "command 'chain verify' is contributed by both one and two",
        "command 'chain export' is contributed by both two and three",
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_group_and_a_command_of_the_same_name_fail_the_boot(boot_problems: Problems, reverse: bool) -> None:
    plugins = [plugin("one", group("chain", command("verify"))), plugin("two", command("chain"))]
    if reverse:
        plugins.reverse()
    owners = [each.name for each in plugins]

    assert boot_problems(*plugins) == [f"command 'chain' is contributed by both {owners[0]} and {owners[1]}"]


def test_a_group_of_cores_own_name_fails_the_boot(boot_problems: Problems) -> None:
    assert boot_problems(plugin("one", group("migrate", command("back")))) == [
        "command 'migrate' is contributed by both core and one"
    ]


def test_options_that_would_be_lost_fail_the_boot(boot: Any, boot_problems: Problems) -> None:
    plain = group("chain", command("verify"))
    fancy = group("chain", command("export"), params=[click.Option(["--fast"])])

    [problem] = boot_problems(plugin("one", plain), plugin("two", fancy))
    assert problem.startswith("command group 'chain': two gives it options, but it is one's")
    assert boot(plugin("two", fancy), plugin("one", plain)).command_by_name["chain"].params == fancy.params


@dataclass
class Kept:
    """Secrets that a plugin stores."""

    name: str

    async def all(self) -> AsyncIterator[WrappedSecret]:
        yield WrappedSecret("1", b"w", {})

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        return True


def test_wrapped_secrets_are_collected_by_name_with_their_owner(boot: Any) -> None:
    keys, tokens = Kept("signing keys"), Kept("tokens")
    assembly = boot(plugin("one", secrets=[keys]), plugin("two", secrets=[tokens]))

    assert [(item.owner, item.value) for item in assembly.of("wrapped_secrets")] == [("one", keys), ("two", tokens)]
    assert assembly.services.get(WrappedSecretsRegistry).by_name == {"signing keys": keys, "tokens": tokens}


def test_wrapped_secrets_of_the_same_name_fail_the_boot(boot_problems: Problems) -> None:
    assert boot_problems(plugin("one", secrets=[Kept("keys")]), plugin("two", secrets=[Kept("keys")])) == [
        "store of wrapped secrets 'keys' is registered by both one and two"
    ]


def test_check_shows_who_contributes_which_commands_and_wrapped_secrets(
    boot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plugin("one", group("chain", command("verify")), secrets=[Kept("keys")])
    assembly = boot(one, plugin("two", group("chain", command("export"))))
    config = tmp_path / "precipiq.toml"
    config.write_text('[deployment]\nname = "t"\n')
    monkeypatch.setattr(check, "assemble_for_command", lambda _, **options: assembly)

    report = json.loads(CliRunner().invoke(main.cli, ["check", "--json", "--config", str(config)]).output)

    assert report["plugins"]["one"] == {"commands": ["chain"], "wrapped secrets": ["keys"]}
    assert report["plugins"]["two"] == {"commands": ["chain"]}
