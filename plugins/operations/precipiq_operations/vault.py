"""``precipiq vault``: checks the vault, and rewraps every stored secret under its newest master key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial

import click

from precipiq_contracts.errors import DeploymentError, VaultRefused
from precipiq_contracts.registries import WrappedSecretsRegistry
from precipiq_contracts.services import Services
from precipiq_contracts.vault import KeyVault
from precipiq_core.cli.context import json_option, run_in_deployment

EXIT_REFUSED = 1


@dataclass
class Count:
    """Wrapped secrets of one plugin.

    ``current``: under the newest master key; ``stale``: under another key of the vault, or changed by another process
    during the rewrap; ``rewrapped``: current now; ``refused``: the vault cannot unwrap it.
    """

    current: int = 0
    stale: int = 0
    rewrapped: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Report:
    """The vault's own report, and the counts of stored secrets."""

    vault: str
    counts: dict[str, Count] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return EXIT_REFUSED if any(count.refused for count in self.counts.values()) else 0


@click.group("vault")
def vault_group() -> None:
    """The master key, and what is wrapped under it."""


@vault_group.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Try the vault, and count what is wrapped.

    Exit code: 0 it can unwrap everything, 1 something was refused, 2 it cannot serve.
    """
    ctx.exit(_show(run_in_deployment(ctx, partial(_go_through, False)), as_json))


@vault_group.command()
@json_option
@click.pass_context
def rewrap(ctx: click.Context, as_json: bool) -> None:
    """Wrap everything anew that is not under the newest master key. May be repeated, and run beside servers.

    Exit code: 0 all is under the newest key, 1 something was refused, 2 the vault cannot serve.
    """
    ctx.exit(_show(run_in_deployment(ctx, partial(_go_through, True)), as_json))


async def _go_through(is_rewrapping: bool, services: Services) -> Report:
    """Ask the vault about every stored secret; only rewrapping shows whether a stale secret can be unwrapped."""
    vault = services.find(KeyVault)
    if vault is None:
        raise DeploymentError(["no enabled plugin is a vault; enable [plugins.vault_local], or another one"])
    report = Report(await vault.check())
    for name, holder in services.get(WrappedSecretsRegistry).by_name.items():
        count = report.counts[name] = Count()
        async for secret in holder.all():
            if vault.is_current(secret.wrapped):
                count.current += 1
                continue
            try:
                wrapped = await vault.rewrap(secret.wrapped, secret.context)
            except VaultRefused as error:
                count.refused += 1
                click.echo(f"{name}: {secret.ref}: {error.message}", err=True)
                continue
            if is_rewrapping and await holder.replace(secret, wrapped):
                count.rewrapped += 1
            else:
                count.stale += 1
    return report


def _show(report: Report, as_json: bool) -> int:
    """Print the report; gives the exit code."""
    if as_json:
        counts = {name: vars(count) for name, count in report.counts.items()}
        click.echo(json.dumps({"vault": report.vault, "secrets": counts}))
        return report.exit_code
    click.echo(report.vault)
    for name, count in report.counts.items():
        parts = ", ".join(f"{number} {word}" for word, number in vars(count).items())
        click.echo(f"{name}: {parts}")
    return report.exit_code
