"""``precipiq ledger``: verify a chain and write its raw entries from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import click
import orjson

from precipiq_chain.entry_record import raw_entry
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.errors import PrecipiqError
from precipiq_contracts.ledger import ChainVerdict
from precipiq_contracts.services import Services
from precipiq_core.cli.context import chain_options, json_option, run_in_deployment
from precipiq_ledger.records import verdict_record
from precipiq_ledger.service import LedgerService
from precipiq_ledger.verifier import Progress, Verifier

EXIT_BROKEN = 1
EXIT_COULD_NOT_CHECK = 2

_PAGE_ENTRIES = 500


@click.group("ledger")
def ledger_group() -> None:
    """Whole chains: verify them, write them out."""


@ledger_group.command()
@chain_options
@click.option("--from-seq", default=1, show_default=True, help="first entry to check")
@json_option
@click.pass_context
def verify(ctx: click.Context, org_id: str, environment: str, from_seq: int, as_json: bool) -> None:
    """Verify a chain. Exit code: 0 intact, 1 broken, 2 could not check."""
    chain = Chain(org_id, cast("Environment", environment))
    try:
        verdict = run_in_deployment(ctx, partial(_verify, chain, from_seq, not as_json))
    except (PrecipiqError, OSError) as error:
        if as_json:
            click.echo(json.dumps({"is_valid": None, "verdict": "could_not_check", "reason": str(error)}))
        click.echo(f"could not check: {error}", err=True)
        ctx.exit(EXIT_COULD_NOT_CHECK)
    if as_json:
        click.echo(json.dumps(verdict_record(verdict)))
    else:
        _show(verdict)
    ctx.exit(0 if verdict.is_valid else EXIT_BROKEN)


async def _verify(chain: Chain, from_seq: int, with_bar: bool, services: Services) -> ChainVerdict:
    auditor = services.get(LedgerService).store.auditor()
    verifier = services.get(Verifier)
    if not with_bar:
        return await verifier.verify(auditor, chain, from_seq)
    total = await asyncio.to_thread(auditor.last_seq, chain) - from_seq + 1
    with _bar("verifying", total) as progress:
        return await verifier.verify(auditor, chain, from_seq, progress=progress)


@contextmanager
def _bar(what: str, total: int, *, shown: bool = True) -> Iterator[Progress]:
    """A progress bar where standard error is a terminal; gives the function to call with each count of entries done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield partial(bar.advance, bar.add_task(what, total=max(total, 0)))


def _show(verdict: ChainVerdict) -> None:
    if verdict.broken is None:
        click.echo(f"intact: {verdict.checked_count} entries, head {verdict.head_seq} {verdict.head_hash}")
        click.echo(f"verdict: {verdict.verdict}, {verdict.checkpoints.compared_count} checkpoints compared")
    else:
        broken = verdict.broken
        click.echo(f"BROKEN at entry {broken.seq} ({broken.id or 'no id'}): {broken.code}: {broken.reason}")
    for sentence in verdict.unchecked:
        click.echo(f"not checked: {sentence}")


@ledger_group.command()
@chain_options
@click.option("--after-seq", default=0, show_default=True, help="entries after this one")
@click.option("--output", type=click.File("wb"), default="-", help="file to write [default: standard output]")
@click.pass_context
def entries(ctx: click.Context, org_id: str, environment: str, after_seq: int, output: Any) -> None:
    """Write the raw entries of a chain as JSON lines, oldest first."""
    chain = Chain(org_id, cast("Environment", environment))
    count = run_in_deployment(ctx, partial(_write_entries, chain, after_seq, output))
    click.echo(f"{count} entries", err=True)


async def _write_entries(chain: Chain, after_seq: int, output: Any, services: Services) -> int:
    service = services.get(LedgerService)
    head = await service.head(chain)
    count = 0
    with _bar("reading", head.seq - after_seq if head else 0, shown=not output.isatty()) as progress:
        while page := await service.read(chain, after_seq, _PAGE_ENTRIES):
            for entry in page:
                output.write(orjson.dumps(raw_entry(entry)) + b"\n")
            count += len(page)
            progress(len(page))
            after_seq = page[-1].seq
    return count
