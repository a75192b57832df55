"""``precipiq plugins``: the installed and the enabled plugins, and the contributions of each hook."""

from __future__ import annotations

import json

import click

from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import Assembly
from precipiq_core.cli.context import assemble_for_command, assembly_of, config_of, deployment_of, json_option
from precipiq_core.deployment_file import named_plugins, read_document
from precipiq_core.discovery import installed_plugins


@click.command()
@click.option("--trace", is_flag=True, help="boot this deployment, and show each call of a hook with its result")
@json_option
@click.pass_context
def plugins(ctx: click.Context, trace: bool, as_json: bool) -> None:
    """Installed plugins, and which of them this deployment enables."""
    if trace:
        _show_calls(assemble_for_command(deployment_of(ctx), edge=True, commands=True), as_json)
        return
    try:
        enabled = set(assembly_of(ctx).plugins)
    except DeploymentError:
        enabled = _read_names(ctx)
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


def _read_names(ctx: click.Context) -> set[str]:
    """The plugins that a deployment enables by name, for one that cannot boot."""
    try:
        return set(named_plugins(read_document(config_of(ctx))))
    except DeploymentError:
        return set()


def _show_calls(assembly: Assembly, as_json: bool) -> None:
    calls = [{"plugin": call.plugin, "hook": call.hook, "result": call.names} for call in assembly.calls]
    if as_json:
        click.echo(json.dumps(calls))
        return
    width = max((len(call.plugin) + len(call.hook) for call in assembly.calls), default=0) + 1
    for number, call in enumerate(calls, start=1):
        name = f"{call['plugin']}.{call['hook']}"
        click.echo(f"{number:>3}  {name:<{width}}  {', '.join(call['result'])}".rstrip())
