"""``precipiq orgs`` and ``precipiq keys``: the operator's way to organisations and keys."""

from __future__ import annotations

import json
from functools import partial
from typing import cast

import click

from precipiq_auth_keys.records import key_record, new_key_record
from precipiq_auth_keys.service import KeyService, NewKey
from precipiq_auth_keys.store import KeyRecord, Organisation
from precipiq_contracts.auth import SCOPES, Scope
from precipiq_contracts.chain import SYSTEM, Chain, Environment
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database, MigratedDatabase
from precipiq_contracts.errors import NotFound
from precipiq_contracts.registries import Migrations
from precipiq_contracts.services import Services
from precipiq_core.cli.context import assembly_of, chain_options, json_option, refuse_bytes, run_in_deployment
from precipiq_core.times import accept_time


@click.group("orgs")
def orgs_group() -> None:
    """Make and list organisations."""


@orgs_group.command("create")
@click.argument("name", callback=refuse_bytes)
@json_option
@click.pass_context
def create_organisation(ctx: click.Context, name: str, as_json: bool) -> None:
    """Make an organisation."""

    async def work(services: Services) -> Organisation:
        return await services.get(KeyService).create_organisation(name)

    _migrate_as_a_start_would(ctx)
    organisation = run_in_deployment(ctx, work)
    document = {"org_id": organisation.org_id, "name": organisation.name}
    click.echo(json.dumps(document) if as_json else f"{organisation.org_id}  {organisation.name}")


def _migrate_as_a_start_would(ctx: click.Context) -> None:
    """An organisation may be the first thing that is made, where the deployment makes the schema by itself."""
    assembly = assembly_of(ctx)
    database = assembly.services.find(Database)
    if isinstance(database, MigratedDatabase) and (assembly.deployment.database or {}).get("migrate_at_start"):
        database.migrate(list(assembly.services.get(Migrations).by_name.values()))


@orgs_group.command("list")
@json_option
@click.pass_context
def list_organisations(ctx: click.Context, as_json: bool) -> None:
    """List all organisations."""

    async def work(services: Services) -> list[Organisation]:
        return await services.get(KeyService).organisations()

    organisations = run_in_deployment(ctx, work)
    if as_json:
        click.echo(json.dumps([{"org_id": item.org_id, "name": item.name} for item in organisations]))
        return
    for item in organisations:
        click.echo(f"{item.org_id}  {item.name}")


@click.group("keys")
def keys_group() -> None:
    """Make, list, rotate and revoke API keys."""


@keys_group.command("create")
@chain_options
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="may be repeated [default: all]")
@click.option("--expires-at", help="ISO 8601 time at which the key ends")
@json_option
@click.pass_context
def create_key(
    ctx: click.Context, org_id: str, environment: str, scopes: tuple[str, ...], expires_at: str | None, as_json: bool
) -> None:
    """Make a key and show it, this once."""
    try:
        expires_us = None if expires_at is None else accept_time(expires_at)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires-at") from None
    wanted = cast("tuple[Scope, ...]", scopes or SCOPES)

    async def work(services: Services) -> NewKey:
        service = services.get(KeyService)
        return await service.create_key(org_id, cast("Environment", environment), wanted, expires_us, SYSTEM)

    _show_new(run_in_deployment(ctx, work), as_json)


@keys_group.command("list")
@chain_options
@json_option
@click.pass_context
def list_keys(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """List the keys of an organisation and environment."""

    async def work(services: Services) -> tuple[list[KeyRecord], int]:
        service = services.get(KeyService)
        if org_id not in [organisation.org_id for organisation in await service.organisations()]:
            raise NotFound(f"there is no organisation {org_id}")
        return await service.keys(Chain(org_id, cast("Environment", environment))), services.get(Clock).now_us()

    keys, now_us = run_in_deployment(ctx, work)
    if as_json:
        click.echo(json.dumps([key_record(key) for key in keys]))
        return
    for key in keys:
        state = "active" if key.is_active(now_us) else "ended"
        click.echo(f"{key.key_id}  {key.prefix}...{key.last_four}  {state:<6}  {' '.join(key.scopes)}")


@keys_group.command("rotate")
@click.argument("key_id", callback=refuse_bytes)
@click.option("--grace-seconds", default=0, show_default=True, type=click.IntRange(min=0))
@json_option
@click.pass_context
def rotate_key(ctx: click.Context, key_id: str, grace_seconds: int, as_json: bool) -> None:
    """Replace a key; the old one ends after the grace."""
    _show_new(run_in_deployment(ctx, partial(_rotate, key_id, grace_seconds)), as_json)


async def _rotate(key_id: str, grace_s: int, services: Services) -> NewKey:
    service = services.get(KeyService)
    return await service.rotate(await service.chain_of(key_id), key_id, grace_s, SYSTEM)


@keys_group.command("revoke")
@click.argument("key_id", callback=refuse_bytes)
@json_option
@click.pass_context
def revoke_key(ctx: click.Context, key_id: str, as_json: bool) -> None:
    """End a key now, everywhere within 5 seconds."""
    key = run_in_deployment(ctx, partial(_revoke, key_id))
    click.echo(json.dumps(key_record(key)) if as_json else f"revoked {key.key_id}")


async def _revoke(key_id: str, services: Services) -> KeyRecord:
    service = services.get(KeyService)
    return await service.revoke(await service.chain_of(key_id), key_id, SYSTEM)


def _show_new(new: NewKey, as_json: bool) -> None:
    if as_json:
        record = new_key_record(new)
        click.echo(json.dumps({"id": record["id"], "key": record["key"], "environment": record["environment"]}))
        return
    click.echo(f"{new.record.key_id}  {new.secret}")
    click.echo("This key is shown once and stored nowhere.", err=True)
