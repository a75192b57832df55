"""``precipiq ledger export`` and ``precipiq signing-keys``: evidence from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import click

from precipiq_contracts.chain import SYSTEM, Chain, Environment
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.services import Services
from precipiq_core.cli.context import chain_options, json_option, must_exist, refuse_bytes, run_in_deployment
from precipiq_core.cli.output import OutputFile, is_standard_output, open_output
from precipiq_core.http.validation import parse_body
from precipiq_exports.downloads import Downloads
from precipiq_exports.jobs import FORMATS, Job
from precipiq_exports.leases import Progress
from precipiq_exports.models import ExportIn
from precipiq_exports.records import export_record
from precipiq_exports.runner import ExportRunner
from precipiq_exports.service import ExportService
from precipiq_exports.signing_key_store import SigningKey
from precipiq_exports.signing_keys import SigningKeys, key_record

_SHOWN_EVERY_S = 0.1


@click.group("ledger")
def ledger_group() -> None:
    """Verify and export chains."""


@ledger_group.command("export")
@chain_options
@click.option("--output", type=OutputFile(), required=True, help="file to write, a ZIP; - is standard output")
@click.option("--start", help="ISO 8601 time of the first entry")
@click.option("--end", help="ISO 8601 time before which entries end; a bare date includes that day")
@click.option("--after-seq", type=click.IntRange(min=0), help="entries after this one")
@click.option("--through-seq", type=click.IntRange(min=0), help="entries up to this one")
@click.option("--agent-id", callback=refuse_bytes, help="only decisions of this agent")
@click.option("--action-type", callback=refuse_bytes, help="only decisions of this type")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="may be repeated [default: both]")
@json_option
@click.pass_context
def export(
    ctx: click.Context,
    /,
    org_id: str,
    environment: str,
    output: Path,
    formats: tuple[str, ...],
    as_json: bool,
    **filters: Any,
) -> None:
    """Make a signed evidence bundle of a chain, and write it to a file.

    The bundle can be downloaded from the server as well, until it expires.
    """
    wanted = parse_body(ExportIn, {**filters, "formats": list(formats or FORMATS)})
    if as_json and is_standard_output(output):
        raise click.UsageError("the bundle and --json cannot both go to standard output")
    chain = Chain(org_id, cast("Environment", environment))
    job = run_in_deployment(ctx, partial(_export, chain, wanted, output, not as_json))
    if as_json:
        click.echo(json.dumps(export_record(job)))
    else:
        text = f"{output}: {job.result['entries']} entries, {job.size_bytes} bytes, sha256 {job.sha256}"
        click.echo(text, err=is_standard_output(output))
    if job.result["is_valid"] is None:
        click.echo("nothing was checked: no entry is in the range that was asked for", err=True)
    elif not job.result["is_valid"]:
        click.echo("the chain did NOT hold when it was verified: see chain_verification.json in the bundle", err=True)


async def _export(chain: Chain, wanted: ExportIn, output: Path, with_bar: bool, services: Services) -> Job:
    service, runner = services.get(ExportService), services.get(ExportRunner)
    await must_exist(chain, services)
    job = await service.request_leased(chain, wanted.as_request(), SYSTEM, runner.owner)
    progress = Progress()
    await _watch(runner.work(job, progress), progress, with_bar)
    job = await service.get(chain, job.export_id)
    if job.status != "completed":
        reason = job.failure.message if job.failure else "see the lines above; the server goes on with it when it runs"
        raise Unavailable(f"export {job.export_id} is {job.status}: {reason}")
    await _write(service, services.get(Downloads), job, output)
    return job


async def _watch(work: Awaitable[None], progress: Progress, with_bar: bool) -> None:
    """Show the work's progress on a terminal's standard error."""
    if not with_bar:
        await work
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("exporting"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    task = asyncio.ensure_future(work)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("exporting", total=None)
        while not (await asyncio.wait([task], timeout=_SHOWN_EVERY_S))[0]:
            bar.update(shown, completed=progress.steps_done, total=progress.steps_total or None)
    task.result()


async def _write(service: ExportService, downloads: Downloads, job: Job, output: Path) -> None:
    """Write the file whole or not at all, where it is a file; recorded as a download before its first byte."""
    assert job.size_bytes is not None
    written_bytes = 0
    download = await downloads.begin(job, SYSTEM, 0, job.size_bytes)
    try:
        with open_output(output) as stream:
            async with aclosing(service.read(job, 0, job.size_bytes)) as pieces:
                async for piece in pieces:
                    stream.write(piece)
                    written_bytes += len(piece)
    finally:
        await downloads.end(download, 0, written_bytes)


@click.group("signing-keys")
def signing_keys_group() -> None:
    """Make, list and rotate the keys that sign evidence."""


@signing_keys_group.command("create")
@chain_options
@json_option
@click.pass_context
def create_key(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """Make the chain's signing key, unless it has one; show it."""

    async def work(services: Services) -> SigningKey:
        chain = Chain(org_id, cast("Environment", environment))
        await must_exist(chain, services)
        return await services.get(SigningKeys).current(chain)

    _show(run_in_deployment(ctx, work), as_json)


@signing_keys_group.command("rotate")
@chain_options
@json_option
@click.pass_context
def rotate_key(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """Replace the chain's signing key by a new one."""

    async def work(services: Services) -> SigningKey:
        chain = Chain(org_id, cast("Environment", environment))
        await must_exist(chain, services)
        return await services.get(SigningKeys).rotate(chain, SYSTEM)

    _show(run_in_deployment(ctx, work), as_json)


@signing_keys_group.command("list")
@chain_options
@json_option
@click.pass_context
def list_keys(ctx: click.Context, org_id: str, environment: str, as_json: bool) -> None:
    """List the chain's signing keys, newest first."""

    async def work(services: Services) -> list[SigningKey]:
        chain = Chain(org_id, cast("Environment", environment))
        await must_exist(chain, services)
        return await services.get(SigningKeys).of_chain(chain)

    keys = run_in_deployment(ctx, work)
    if as_json:
        click.echo(json.dumps([key_record(key) for key in keys]))
        return
    for key in keys:
        _show(key, as_json=False)


def _show(key: SigningKey, as_json: bool) -> None:
    record = key_record(key)
    if as_json:
        click.echo(json.dumps(record))
    else:
        state = "active" if key.retired_us is None else "retired"
        click.echo(f"{key.key_id}  {state:<7}  {record['fingerprint']}")
