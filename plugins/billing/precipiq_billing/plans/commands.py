"""``precipiq plans``: the organisations' plans, and replays of Stripe's events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from precipiq_billing.errors import NotAStripeEvent
from precipiq_billing.event_files import stored_events
from precipiq_billing.plans.service import Account, PlanBook
from precipiq_contracts.clock import format_timestamp
from precipiq_contracts.plans import Plans
from precipiq_contracts.services import Services
from precipiq_core.cli.context import json_option, run_in_deployment


@click.group("plans")
def plans_group() -> None:
    """List the plans of organisations, and replay events of Stripe."""


@plans_group.command("list")
@json_option
@click.pass_context
def list_plans(ctx: click.Context, as_json: bool) -> None:
    """List every organisation that ever had a subscription; all others have the default plan."""

    async def work(services: Services) -> list[Account]:
        return await _book(services).accounts()

    accounts = run_in_deployment(ctx, work)
    if as_json:
        click.echo(json.dumps([_record(account) for account in accounts]))
        return
    for account in accounts:
        statuses = ",".join(dict.fromkeys(state.status for state, _ in account.subscriptions))
        until = _moment(account.standing.valid_until_s) or "-"
        click.echo(f"{account.org_id}  {account.standing.plan}  {statuses}  {until}")


@plans_group.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@click.pass_context
def replay(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Take stored events of Stripe as if they were delivered now, without their signatures.

    FILE holds an event a line, one array of events, or an object whose `data` is that array, as Stripe lists events.
    Order and repetition do not matter.
    """

    async def work(services: Services) -> Replayed:
        return await replay_events(_book(services), stored_events(file))

    counts = run_in_deployment(ctx, work)
    if as_json:
        click.echo(json.dumps({"events": counts.events, "processed": counts.processed, "reasons": counts.reasons}))
        return
    click.echo(f"{counts.events} events, {counts.processed} processed")
    for reason, count in counts.reasons.items():
        click.echo(f"{count}: {reason}")


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of a replay. ``reasons``: why events changed nothing, the most frequent first, with their counts."""

    events: int
    processed: int
    reasons: Mapping[str, int]


async def replay_events(book: PlanBook, events: Iterable[object]) -> Replayed:
    """Take each event; an item that is no event is counted and does not stop the replay. Raises ``Unavailable``."""
    taken = 0
    reasons: Counter[str] = Counter()
    for event in events:
        taken += 1
        try:
            reason = await book.take(event)
        except NotAStripeEvent as error:
            reason = error.message
        if reason is not None:
            reasons[reason] += 1
    return Replayed(taken, taken - reasons.total(), dict(reasons.most_common()))


def _book(services: Services) -> PlanBook:
    plans = services.get(Plans)
    if not isinstance(plans, PlanBook):
        raise click.ClickException("this deployment has no plans: there is no table plugins.billing.plans")
    return plans


def _record(account: Account) -> dict[str, Any]:
    return {
        "org_id": account.org_id,
        "plan": account.standing.plan,
        "valid_until": _moment(account.standing.valid_until_s),
        "subscriptions": [
            {
                "subscription_id": state.subscription_id,
                "status": state.status,
                "price_ids": list(state.price_ids),
                "plan": None if given is None else given.plan,
                "valid_until": None if given is None else _moment(given.valid_until_s),
            }
            for state, given in account.subscriptions
        ],
    }


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else format_timestamp(seconds * 1_000_000)
