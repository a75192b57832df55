"""``precipiq outcomes``: rebuilds the sums from the chain, and reports whether they were right."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, cast

import click

from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.services import Services
from precipiq_core.cli.context import chain_options, json_option, must_exist, run_in_deployment
from precipiq_outcomes.projection import Projection
from precipiq_outcomes.projection_store import LINKS_CURSOR, ProjectionStore


@click.group("outcomes")
def outcomes_group() -> None:
    """What links add up to."""


@outcomes_group.command("rebuild")
@chain_options
@json_option
@click.pass_context
def rebuild(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """Take a chain's entries in anew. Exit code 1 when the sums were other than the chain says; they are right now.

    May run while the deployment serves: reads wait, or answer 503, until it is done.
    """
    chain = Chain(org_id, cast("Environment", environment))
    result = run_in_deployment(ctx, partial(_rebuild, chain))
    if as_json:
        click.echo(json.dumps(result))
    else:
        differing = ", ".join(result["differing"]) or "nothing"
        click.echo(f"{result['rows']} rows rebuilt; {differing} was other than the chain says")
    ctx.exit(1 if result["differing"] else 0)


async def _rebuild(chain: Chain, services: Services) -> dict[str, Any]:
    await must_exist(chain, services)
    store, projection = services.get(ProjectionStore), services.get(Projection)
    await projection.catch_up(chain)
    seq, kept = await store.snapshot(chain, LINKS_CURSOR)  # the chain may grow: what is compared ends with this entry
    expected = await projection.rebuild_aside(chain, seq)
    await projection.rebuild(chain)
    differing = [table for table, rows in expected.items() if rows != kept[table]]
    return {"rows": sum(map(len, expected.values())), "differing": differing}
