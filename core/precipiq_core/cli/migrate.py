"""``precipiq migrate``: the schema that the enabled plugins need."""

from __future__ import annotations

import click

from precipiq_contracts.database import Database, MigratedDatabase
from precipiq_contracts.registries import Migrations
from precipiq_core.cli.context import assemble_for_command, deployment_of


@click.command()
@click.option("--post", is_flag=True, help="also what waits until no server of the version before runs any more")
@click.pass_context
def migrate(ctx: click.Context, post: bool) -> None:
    """Bring the database to the schema that the enabled plugins need."""
    services = assemble_for_command(deployment_of(ctx)).services
    database = services.find(Database)
    if not isinstance(database, MigratedDatabase):
        click.echo("this deployment has no [database]: nothing to migrate")
        return
    applied = database.migrate(list(services.get(Migrations).by_name.values()), post=post)
    for revision in applied:
        click.echo(f"applied {revision}")
    if not applied:
        click.echo("the schema is up to date")
