"""The shared parts of commands: options, the assembly, and running a coroutine inside its lifespan."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from precipiq_contracts.chain import Chain
    from precipiq_contracts.deployment import Console
    from precipiq_contracts.services import Services
    from precipiq_core.boot import Assembly
    from precipiq_core.deployment import Deployment
    from precipiq_logs.setup import LoggingControl

T = TypeVar("T")

CONFIG_VARIABLE = "PRECIPIQ_CONFIG"
DEFAULT_CONFIG = Path("deployments/embedded/precipiq.toml")


json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")


def refuse_bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """The value as it is given, unless bytes in it are no text: no store could look for them."""
    if value is None or value.isprintable():
        return value
    raise click.BadParameter("has characters that are no text")


org_option = click.option("--org", "org_id", required=True, callback=refuse_bytes, help="the organisation's id")


def chain_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--org`` and ``--env``: which chain; parameters ``org_id`` and ``environment``."""
    command = click.option("--env", "environment", type=click.Choice(["live", "test"]), required=True)(command)
    return org_option(command)


class TerminalConsole:
    """The operator's terminal: standard error, so that ``--json`` keeps standard output to itself."""

    is_terminal = False

    def say(self, text: str) -> None:
        click.echo(text, err=True)


@dataclass
class CliContext:
    """The object that click hands to every command.

    ``assembly``: the booted deployment, once a command needed it. ``indexed``: see ``precipiq_core.cli.index``.
    """

    assembly: Assembly | None = None
    indexed: Mapping[str, click.Command] | None = None


def config_of(ctx: click.Context) -> Path:
    """The deployment file that the command line or the environment names."""
    return ctx.find_root().params.get("config") or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def deployment_of(ctx: click.Context) -> Deployment:
    """The deployment, read and checked. Raises ``DeploymentError`` with everything that is wrong."""
    from precipiq_core.deployment import load_deployment

    return load_deployment(config_of(ctx), os.environ)


def assembly_of(ctx: click.Context, *, commands: bool = False) -> Assembly:
    """The deployment, booted for commands once in a process. ``commands``: see ``boot.assemble``."""
    context = ctx.ensure_object(CliContext)
    if context.assembly is None:
        context.assembly = assemble_for_command(deployment_of(ctx), commands=commands)
    return context.assembly


def assemble_for_command(deployment: Deployment, **options: bool) -> Assembly:
    """Boot for a command rather than for serving; logs go to standard error from level warning.

    ``edge``, ``commands``: see ``boot.assemble``; ``precipiq check`` looks at both.
    """
    from precipiq_core.system import SystemClock
    from precipiq_logs.settings import LogSettings
    from precipiq_logs.setup import configure_logging

    control = configure_logging(LogSettings(level="warning"), SystemClock())
    return boot(
        deployment, TerminalConsole(), control, **{"serving": False, "edge": False, "commands": False, **options}
    )


def boot(deployment: Deployment, console: Console, control: LoggingControl, **options: Any) -> Assembly:
    """The deployment on this machine. ``options``: see ``boot.assemble``."""
    from precipiq_core.boot import assemble
    from precipiq_core.system import SystemClock, SystemRandomness

    assembly = assemble(deployment, clock=SystemClock(), randomness=SystemRandomness(), console=console, **options)
    control.add(names=[item.value for item in assembly.of("secret_names")])
    return assembly


async def must_exist(chain: Chain, services: Services) -> None:
    """Raises ``NotFound`` for a chain without an entry: a misspelt organisation must not become one."""
    from precipiq_contracts.errors import NotFound
    from precipiq_contracts.ledger import Ledger

    if await services.get(Ledger).head(chain) is None:
        raise NotFound(f"there is no entry of {chain.org_id} in the environment {chain.environment}")


def run_in_deployment(ctx: click.Context, work: Callable[[Services], Awaitable[T]]) -> T:
    """Run ``work`` with the deployment's parts started, as a plugin's command does."""
    import asyncio

    from precipiq_core.running import run_lifespans

    assembly = assembly_of(ctx)

    async def main() -> T:
        async with run_lifespans(assembly):
            return await work(assembly.services)

    return asyncio.run(main())
