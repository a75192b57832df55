"""``precipiq stripe``: endpoints and their secrets, and replaying stored events."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import click

from precipiq_billing.deliveries import Deliveries
from precipiq_billing.endpoint_records import endpoint_record
from precipiq_billing.endpoint_store import StripeEndpoint
from precipiq_billing.endpoints import StripeEndpoints
from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.event_files import stored_events
from precipiq_contracts.chain import SYSTEM, Chain, Environment
from precipiq_contracts.clock import Clock
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.services import Services
from precipiq_core.cli.context import chain_options, json_option, must_exist, run_in_deployment

_SECRET_CHARACTERS = range(22, 256)

secret_option = click.option(
    "--secret-file",
    type=click.File("r"),
    help="file that holds the signing secret, - for standard input; without it you are asked",
)


@click.group("stripe")
def stripe_group() -> None:
    """Endpoints for Stripe's events, their secrets, and replays."""


@stripe_group.group("endpoints")
def endpoints_group() -> None:
    """Make, list and delete endpoints for Stripe's events."""


@endpoints_group.command("create")
@chain_options
@click.option("--description", help="for people")
@json_option
@click.pass_context
def create_endpoint(ctx: click.Context, org_id: str, environment: str, description: str | None, as_json: bool) -> None:
    """Make an endpoint; register its URL in Stripe, then set the secret that Stripe shows."""

    async def work(services: Services) -> dict[str, Any]:
        chain = Chain(org_id, cast("Environment", environment))
        await must_exist(chain, services)
        endpoint, _ = await services.get(StripeEndpoints).create(chain, description, None, SYSTEM)
        return _record(services, endpoint)

    _show(run_in_deployment(ctx, work), as_json)


@endpoints_group.command("list")
@chain_options
@json_option
@click.pass_context
def list_endpoints(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """List the endpoints, newest first."""

    async def work(services: Services) -> list[dict[str, Any]]:
        chain = Chain(org_id, cast("Environment", environment))
        await must_exist(chain, services)
        return [_record(services, item) for item in await services.get(StripeEndpoints).of_chain(chain)]

    records = run_in_deployment(ctx, work)
    if as_json:
        click.echo(json.dumps(records))
        return
    for record in records:
        _show(record, as_json=False)


@endpoints_group.command("delete")
@click.argument("endpoint_id")
@chain_options
@json_option
@click.pass_context
def delete_endpoint(ctx: click.Context, endpoint_id: str, org_id: str, environment: str, as_json: bool) -> None:
    """Delete an endpoint and its secrets."""

    async def work(services: Services) -> dict[str, Any]:
        chain = Chain(org_id, cast("Environment", environment))
        return _record(services, await services.get(StripeEndpoints).delete(chain, endpoint_id, SYSTEM))

    _show(run_in_deployment(ctx, work), as_json)


@endpoints_group.command("set-secret")
@click.argument("endpoint_id")
@chain_options
@secret_option
@click.option(
    "--grace-seconds", type=click.IntRange(min=0), default=0, help="how long the secret before stays good [default: 0]"
)
@json_option
@click.pass_context
def set_secret(
    ctx: click.Context,
    endpoint_id: str,
    org_id: str,
    environment: str,
    secret_file: IO[str] | None,
    grace_seconds: int,
    as_json: bool,
) -> None:
    """Set or roll an endpoint's signing secret. It is never an argument: those can be seen by everybody."""
    secret = (
        click.prompt("signing secret", hide_input=True, err=True) if secret_file is None else secret_file.read()
    ).strip()
    if not secret.startswith("whsec_") or len(secret) not in _SECRET_CHARACTERS:
        raise click.UsageError("that is no signing secret of Stripe (whsec_...)")

    async def work(services: Services) -> dict[str, Any]:
        chain = Chain(org_id, cast("Environment", environment))
        endpoints = services.get(StripeEndpoints)
        return _record(services, await endpoints.set_secret(chain, endpoint_id, secret, grace_seconds, SYSTEM))

    _show(run_in_deployment(ctx, work), as_json)


@stripe_group.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@chain_options
@json_option
@click.pass_context
def replay(ctx: click.Context, file: Path, org_id: str, environment: str, as_json: bool) -> None:
    """Book stored events of Stripe, as if they were delivered now: what is booked already is not booked again.

    FILE holds events as Stripe's API or CLI gives them: objects, arrays and list objects with `data`, one or several.
    Exit code 1 says that all were taken, and that some move money and were not booked.
    """
    chain = Chain(org_id, cast("Environment", environment))
    counts, unhandled = run_in_deployment(ctx, partial(_replay, chain, file))
    if as_json:
        click.echo(json.dumps({**counts, **({"unhandled": unhandled} if unhandled else {})}))
    else:
        for what, count in counts.items():
            click.echo(f"{count:>8}  {what}")
    if unhandled:
        types = ", ".join(f"{kind} ({count})" for kind, count in unhandled.items())
        click.echo(f"these move money and were not booked: {types}", err=True)
        ctx.exit(1)


async def _replay(chain: Chain, file: Path, services: Services) -> tuple[dict[str, int], dict[str, int]]:
    """How many events came to what, and how many of each type move money and were not booked."""
    await must_exist(chain, services)
    deliveries = services.get(Deliveries)
    counts: Counter[str] = Counter()
    unhandled: Counter[str] = Counter()
    for number, event in enumerate(stored_events(file), 1):
        try:
            outcome = await deliveries.take(chain, event)
        except NotAStripeEvent as error:
            raise click.ClickException(f"event {number} of {file}: {error.message}; {dict(counts)}") from None
        counts["booked" if outcome.processed else str(outcome.reason)] += 1
        if outcome.unhandled is not None:
            unhandled[outcome.unhandled] += 1
        await deliveries.note_sealed()
    await deliveries.seal_left_over()
    return dict(counts), dict(unhandled)


def _record(services: Services, endpoint: StripeEndpoint) -> dict[str, Any]:
    now_us = services.get(Clock).now_us()
    return endpoint_record(endpoint, services.get(DeploymentInfo).public_url, now_us)


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record))
    else:
        state = f"secret ...{record['secret_hint']}" if record["has_secret"] else "no secret yet"
        click.echo(f"{record['id']}  {state}  {record['url']}")
