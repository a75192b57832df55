"""``precipiq acme``: this plugin's command."""

from __future__ import annotations

import json
from typing import cast

import click

from acme_plugin.service import Notes
from precipiq_contracts.chain import ENVIRONMENTS, Chain, Environment
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.services import Services
from precipiq_core.cli.context import run_in_deployment


@click.group("acme")
def acme_group() -> None:
    """Notes beside the decisions."""


@acme_group.command()
@click.option("--org", "org_id", required=True, help="the organisation's id")
@click.option("--env", "environment", type=click.Choice(ENVIRONMENTS), required=True)
@click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")
@click.pass_context
def count(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """Count the notes of a chain."""
    chain = Chain(org_id, cast("Environment", environment))

    async def work(services: Services) -> int:
        return await Notes(services.get(Ledger), 0).count(chain)

    notes_count = run_in_deployment(ctx, work)
    click.echo(json.dumps({"count": notes_count}) if as_json else notes_count)
