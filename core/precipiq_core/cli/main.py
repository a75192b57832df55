"""The command ``precipiq``: core's own subcommands, and those that the deployment's plugins contribute.

The imports of a command are made when it is entered: ``precipiq --help`` pays for all imports of this module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import click

from precipiq_contracts.errors import PrecipiqError
from precipiq_core import __version__
from precipiq_core.cli.context import CONFIG_VARIABLE, DEFAULT_CONFIG, CliContext, assembly_of, config_of
from precipiq_core.cli.index import indexed_commands
from precipiq_core.cli.later import Later
from precipiq_core.cli.outcome import EXIT_CANNOT, say_problems
from precipiq_core.deployment_file import named_plugins, read_document, unnamed_plugins


class PrecipiqGroup(click.Group):
    """Core's commands plus the plugins'; the plugins are loaded only where their distributions do not name them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """All commands take ``--config``: at any place in the line, it is the group's."""
        return super().parse_args(ctx, _move_config_first(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        try:
            contributed = set(self._load_index(ctx) or assembly_of(ctx, commands=True).command_by_name)
        except PrecipiqError:
            contributed = set()
        return sorted({*super().list_commands(ctx), *contributed})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name) or self._load_index(ctx).get(cmd_name)
        return command or assembly_of(ctx, commands=True).command_by_name.get(cmd_name)

    def _load_index(self, ctx: click.Context) -> Mapping[str, click.Command]:
        """The commands by name; empty when only a boot finds them."""
        context = ctx.ensure_object(CliContext)
        if context.assembly is not None:
            return {}
        if context.indexed is None:
            document = read_document(config_of(ctx).resolve())
            context.indexed = indexed_commands(named_plugins(document), by_themselves=unnamed_plugins(document)) or {}
        return context.indexed


def _move_config_first(args: list[str]) -> list[str]:
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


@click.group(cls=PrecipiqGroup, context_settings={"max_content_width": 120})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"deployment file [default: ${CONFIG_VARIABLE}, else {DEFAULT_CONFIG}]",
)
@click.version_option(__version__, prog_name="precipiq")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """A self-hosted, tamper-evident ledger of decisions."""
    ctx.ensure_object(CliContext)


for _name, _help in {
    "check": "Boot without opening sockets or databases, and say what each plugin contributes.",
    "migrate": "Bring the database to the schema that the enabled plugins need.",
    "plugins": "Installed plugins, and which of them this deployment enables.",
    "serve": "Serve the deployment until SIGTERM.",
}.items():
    cli.add_command(Later(_name, _help, f"precipiq_core.cli.{_name}:{_name}"))


def main() -> None:
    """Entry point: turns what goes wrong into one line each and an exit code. What it makes is for its owner alone."""
    os.umask(0o077)
    try:
        if sys.stdin is None:
            os.open(os.devnull, os.O_RDONLY)  # else the next file that is opened would be standard input
        if sys.stdout is None or sys.stderr is None:
            sys.stderr = sys.stderr or sys.stdout
            raise OSError(f"standard output or standard error is closed: send it to {os.devnull} instead")
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        code = 130
    except (click.ClickException, PrecipiqError, OSError, UnicodeError) as error:
        code = say_problems(error)
    except SystemExit as error:  # click's 1 for a reader that went away is an answer here
        code = EXIT_CANNOT if "PacifyFlush" in type(sys.stdout).__name__ else error.code
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, AttributeError):
            setattr(sys, name, None)  # else Python tries again while it ends, and ends with 120
    sys.exit(code if isinstance(code, int) else 0)
