"""``precipiq plugins``: what is installed, and what of it is enabled."""

from __future__ import annotations

import json

import click

from precipiq_contracts.errors import DeploymentError
from precipiq_core.cli.context import deployment_of
from precipiq_core.cli.options import json_option
from precipiq_core.discovery import installed_plugins


@click.command()
@json_option
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """Installed plugins, and which of them this deployment enables."""
    try:
        enabled = set(deployment_of(ctx).plugins)
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
