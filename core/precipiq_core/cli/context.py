"""What commands share: the assembled deployment, and running a coroutine inside its lifespan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import click

from precipiq_core.boot import Assembly, Boot
from precipiq_core.clock import SystemClock, SystemRandomness
from precipiq_core.contracts.chain import Chain
from precipiq_core.deployment import Deployment
from precipiq_core.errors import NotFound
from precipiq_core.logs.settings import LogSettings
from precipiq_core.services import Services

T = TypeVar("T")


class TerminalConsole:
    """The operator's terminal: standard error, so that ``--json`` keeps standard output to itself."""

    def say(self, text: str) -> None:
        click.echo(text, err=True)


@dataclass
class CliContext:
    """The object that click hands to every command: what was booted so far."""

    assembly: Assembly | None = None
    boot: Boot | None = None

    def command_by_name(self, deployment: Callable[[], Deployment]) -> Mapping[str, click.Command]:
        """What plugins add to the command line. Raises ``PrecipiqError``."""
        if self.assembly is not None:
            return self.assembly.command_by_name
        if self.boot is None:
            self.boot = boot_for_command(deployment())
        return self.boot.commands()

    def assembled(self) -> Assembly:
        """Everything that a plugin's command runs with."""
        if self.assembly is None:
            assert self.boot is not None, "commands are found before they run"
            self.assembly = _assembled(self.boot, answers_requests=False)
        return self.assembly


def boot_for_command(deployment: Deployment) -> Boot:
    """Boot for a command rather than for serving."""
    return Boot(
        deployment, clock=SystemClock(), randomness=SystemRandomness(), console=TerminalConsole(), serving=False
    )


def assemble_for_command(deployment: Deployment, *, answers_requests: bool = True) -> Assembly:
    """Everything that a command runs with, with or without routes; logs go to standard error from level warning."""
    return _assembled(boot_for_command(deployment), answers_requests=answers_requests)


def _assembled(boot: Boot, *, answers_requests: bool) -> Assembly:
    from precipiq_core.logs.setup import configure_logging

    control = configure_logging(LogSettings(level="warning"))
    assembly = boot.assembly(answers_requests=answers_requests)
    control.add(names=[item.value for item in assembly.secret_names])
    return assembly


async def must_exist(chain: Chain, services: Services) -> None:
    """Raises ``NotFound`` for a chain without an entry: a misspelt organisation must not become one."""
    from precipiq_core.contracts.ledger import Ledger

    if await services.get(Ledger).head(chain) is None:  # type: ignore[type-abstract]
        raise NotFound(f"there is no entry of {chain.org_id} in the environment {chain.environment}")


def run_in_deployment(ctx: click.Context, work: Callable[[Services], Awaitable[T]]) -> T:
    """Run ``work`` with the deployment's parts started, as a plugin's command does."""
    import asyncio  # with what it brings along a tenth of all that listing commands takes

    from precipiq_core.lifespan import running

    context = ctx.find_object(CliContext)
    assert context is not None
    assembly = context.assembled()

    async def main() -> T:
        async with running(assembly):
            return await work(assembly.services)

    return asyncio.run(main())
