"""``precipiq migrate``: the schema that the enabled plugins need."""

from __future__ import annotations

import click

from precipiq_core.cli.context import assemble_for_command, deployment_of


@click.command()
@click.option("--post", is_flag=True, help="also what waits until no server of the version before runs any more")
@click.pass_context
def migrate(ctx: click.Context, post: bool) -> None:
    """Bring the database to the schema that the enabled plugins need."""
    assembly = assemble_for_command(deployment_of(ctx))
    if assembly.database is None:
        click.echo("this deployment has no [database]: nothing to migrate")
        return
    applied = assembly.database.migrate([item.value for item in assembly.migrations], post=post)
    for revision in applied:
        click.echo(f"applied {revision}")
    if not applied:
        click.echo("the schema is up to date")
