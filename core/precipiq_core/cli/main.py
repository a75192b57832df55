"""The command ``precipiq``: core's own subcommands, and those that the deployment's plugins contribute.

Exit codes: 0 done; 1 the answer is no (a broken chain, a failed check); 2 it could not be done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import click

from precipiq_core import __version__
from precipiq_core.boot import Assembly
from precipiq_core.cli.context import CliContext, assemble_for_command
from precipiq_core.deployment import Deployment, load_deployment
from precipiq_core.discovery import installed_plugins
from precipiq_core.errors import DeploymentError, PrecipiqError

CONFIG_VARIABLE = "PRECIPIQ_CONFIG"
DEFAULT_CONFIG = Path("deployments/embedded/precipiq.toml")

EXIT_NO = 1
EXIT_CANNOT = 2


def _fail(error: PrecipiqError) -> int:
    if isinstance(error, DeploymentError):
        problems: Sequence[str] = error.problems
    else:
        details = error.details or {}
        problems = [f"{path}: {item}" for path, items in details.items() for item in items] or [error.message]
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    return EXIT_CANNOT


class PrecipiqGroup(click.Group):
    """Core's commands plus the plugins', which are loaded only when a command is not core's own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """All commands take ``--config``: wherever it stands, it is the group's."""
        return super().parse_args(ctx, _config_first(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        try:
            contributed = set(self._contributed(ctx))
        except PrecipiqError:
            contributed = set()
        return sorted({*super().list_commands(ctx), *contributed})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        return self._contributed(ctx).get(cmd_name) if command is None else command

    def _contributed(self, ctx: click.Context) -> Mapping[str, click.Command]:
        return ctx.ensure_object(CliContext).command_by_name(lambda: _deployment(ctx.params.get("config")))


def _config_first(args: list[str]) -> list[str]:
    end = args.index("--") if "--" in args else len(args)
    config: list[str] = []
    rest: list[str] = []
    arguments = iter(args[:end])
    for argument in arguments:
        if argument == "--config":
            value = list(islice(arguments, 1))
            if not value:
                raise click.UsageError("Option '--config' requires an argument.")
            config += [argument, *value]
        else:
            (config if argument.startswith("--config=") else rest).append(argument)
    return [*config, *rest, *args[end:]]


def _deployment(config: Path | None) -> Deployment:
    return load_deployment(config or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG), os.environ)


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"deployment file [default: ${CONFIG_VARIABLE}, else {DEFAULT_CONFIG}]",
)


@click.group(cls=PrecipiqGroup, context_settings={"max_content_width": 120})
@config_option
@click.version_option(__version__, prog_name="precipiq")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """A self-hosted, tamper-evident ledger of decisions."""
    ctx.ensure_object(CliContext)


@cli.command()
@click.option("--bind", metavar="HOST:PORT", help="address to listen on, instead of the deployment's")
@click.option("--workers", type=click.IntRange(1, 64), help="processes that serve, instead of the deployment's number")
@click.option("--worker", hidden=True, help="what `serve --workers` tells the processes that it starts")
@click.pass_context
def serve(ctx: click.Context, bind: str | None, workers: int | None, worker: str | None) -> None:
    """Serve the deployment until SIGTERM."""
    from precipiq_core.cli.serve import serve_deployment  # the server's imports cost every other command time

    ctx.exit(serve_deployment(_deployment(ctx.find_root().params["config"]), bind, workers, worker))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Boot without opening sockets or databases, and say what each plugin contributes."""
    try:
        assembly = assemble_for_command(_deployment(ctx.find_root().params["config"]))
        from precipiq_core.app import Application

        Application(assembly)
    except DeploymentError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": list(error.problems)}))
        _fail(error)
        ctx.exit(EXIT_NO)
    report = _report(assembly)
    if as_json:
        click.echo(json.dumps({"ok": True, "deployment": assembly.deployment.name, "plugins": report}))
        return
    click.echo(f"deployment {assembly.deployment.name}: ok (data in {assembly.deployment.data_dir})")
    for name, parts in report.items():
        click.echo(f"  {name}")
        for what, values in parts.items():
            click.echo(f"    {what}: {', '.join(values)}")


def _report(assembly: Assembly) -> dict[str, dict[str, list[str]]]:
    report: dict[str, dict[str, list[str]]] = {name: {} for name in assembly.plugins}

    def add(owner: str, what: str, value: str) -> None:
        report[owner].setdefault(what, []).append(value)

    for capability, owner in assembly.services.owners.items():
        if owner in report:
            add(owner, "provides", capability.__name__)
    for kind in assembly.kinds:
        add(kind.owner, "entry kinds", kind.value.name)
    for driver in assembly.drivers:
        add(driver.owner, "entry store drivers", driver.value.name)
    for endpoint in assembly.endpoints:
        add(endpoint.owner, "routes", f"{endpoint.value.method} {endpoint.value.path}")
    for page in assembly.plain_endpoints:
        add(page.owner, "routes", f"{page.value.method} {page.value.path}")
    for websocket in assembly.websocket_endpoints:
        add(websocket.owner, "routes", f"WS {websocket.value.path}")
    for layer in assembly.middleware:
        add(layer.owner, "middleware", layer.value.layer)
    for authenticator in assembly.authenticators:
        add(authenticator.owner, "authenticators", type(authenticator.value).__name__)
    for migration in assembly.migrations:
        add(migration.owner, "tables", ", ".join(migration.value.tenant_tables))
    for command in assembly.commands:
        add(command.owner, "commands", command.value.name or "")
    for secret in assembly.secret_names:
        add(secret.owner, "secret names", secret.value)
    for wrapped in assembly.wrapped_secrets:
        add(wrapped.owner, "wrapped secrets", wrapped.value.name)
    for follower in assembly.followers:
        add(follower.owner, "followers", follower.value.name)
    return report


@cli.command()
@click.option("--post", is_flag=True, help="also what waits until no server of the version before runs any more")
@click.pass_context
def migrate(ctx: click.Context, post: bool) -> None:
    """Bring the database to the schema that the enabled plugins need."""
    assembly = assemble_for_command(_deployment(ctx.find_root().params["config"]), answers_requests=False)
    if assembly.database is None:
        click.echo("this deployment has no [database]: nothing to migrate")
        return
    applied = assembly.database.migrate([item.value for item in assembly.migrations], post=post)
    for revision in applied:
        click.echo(f"applied {revision}")
    if not applied:
        click.echo("the schema is up to date")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """Installed plugins, and which of them this deployment enables."""
    try:
        enabled = set(_deployment(ctx.find_root().params["config"]).plugins)
    except DeploymentError:
        enabled = set()
    rows = [
        {
            "name": point.name,
            "distribution": point.dist.name if point.dist else None,
            "version": point.dist.version if point.dist else None,
            "enabled": point.name in enabled,
        }
        for point in installed_plugins()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        state = "enabled" if row["enabled"] else "installed"
        click.echo(f"{row['name']:<20} {state:<10} {row['distribution']} {row['version']}")


def main() -> None:
    """Entry point: turns the project's errors into one line each and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = EXIT_CANNOT
    except PrecipiqError as error:
        code = _fail(error)
    sys.exit(code if isinstance(code, int) else 0)
