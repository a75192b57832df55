"""``precipiq ledger``: verify a chain and write its raw entries from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import orjson

from precipiq_chain.entry_record import raw_entry
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import NotFound, PrecipiqError, ValidationFailed
from precipiq_contracts.ledger import ChainVerdict
from precipiq_contracts.services import Services
from precipiq_core.cli.context import chain_options, json_option, must_exist, refuse_bytes, run_in_deployment
from precipiq_core.cli.outcome import problems_of
from precipiq_core.cli.output import OutputFile, open_output
from precipiq_ledger.grading import (
    CHECKED_ZERO,
    COULD_NOT_CHECK,
    FAILED,
    WORST_FIRST,
    Window,
    first_failing,
    newest_age_s,
    windows,
)
from precipiq_ledger.next_steps import next_steps
from precipiq_ledger.records import verdict_record
from precipiq_ledger.restore_command import restored
from precipiq_ledger.row_trust import RowTrust
from precipiq_ledger.service import LedgerService
from precipiq_ledger.verifier import Progress, Verifier

EXIT_BROKEN = 1
EXIT_COULD_NOT_CHECK = 2
_EXIT_CODES: dict[str, int] = {FAILED: EXIT_BROKEN, COULD_NOT_CHECK: EXIT_COULD_NOT_CHECK}

_PAGE_ENTRIES = 500
_SEQ = click.IntRange(1, 2**63 - 1)


@click.group("ledger")
def ledger_group() -> None:
    """Whole chains: verify them, write them out, go on after a restore."""


@ledger_group.command()
@click.option("--org", "org_id", callback=refuse_bytes, help="the organisation's id")
@click.option("--env", "environment", type=click.Choice(["live", "test"]))
@click.option("--all", "every", is_flag=True, help="every chain, in place of --org and --env")
@click.option("--from-seq", type=_SEQ, default=1, show_default=True, help="first entry to check")
@json_option
@click.pass_context
def verify(
    ctx: click.Context, org_id: str | None, environment: str | None, every: bool, from_seq: int, as_json: bool
) -> None:
    """Verify a chain, or all of them.

    Exit code: 0 intact, 1 broken or its evidence lost, 2 could not check: there was nothing to check, for instance.
    """
    if every and (org_id is not None or environment is not None or from_seq != 1):
        raise click.UsageError("--all goes without --org, --env and --from-seq")
    if not every and (org_id is None or environment is None):
        raise click.UsageError("say which chain, by --org and --env, or --all")
    asked = None if every else Chain(org_id or "", cast("Environment", environment))
    try:
        found = run_in_deployment(ctx, partial(_verify, asked, from_seq, not as_json))
    except (PrecipiqError, OSError, UnicodeError) as error:
        found = [(None, Unverified(error))]
    documents = [_document(chain, verdict, every) for chain, verdict in found]
    if as_json:
        every = every and found[0][0] is not None
        worst = min(documents, key=lambda document: WORST_FIRST.index(document["verdict"]))
        summary = {"is_valid": worst["is_valid"], "verdict": worst["verdict"], "chains": documents}
        click.echo(json.dumps(summary if every else worst))
    for chain, verdict in found:
        _show(f"{chain.org_id} {chain.environment}: " if every and chain else "", verdict, as_json)
    ctx.exit(max(found, key=lambda item: (item[1].exit_code == EXIT_BROKEN, item[1].exit_code))[1].exit_code)


async def _verify(
    asked: Chain | None, from_seq: int, with_bar: bool, services: Services
) -> list[tuple[Chain | None, Verified | Unverified]]:
    """The verdict on that chain, or on every chain that the store, a checkpoint or the sweep knows."""
    verifier = services.get(Verifier)
    if asked is not None:
        return [(asked, await _verify_one(asked, from_seq, with_bar, services))]
    chains = {chain async for chain in services.get(LedgerService).store.chains()}
    chains |= verifier.checkpointed_chains() | verifier.remembered().keys() | await services.get(RowTrust).chains()
    if not chains:
        raise NotFound(f"{CHECKED_ZERO}: there is no chain yet")
    found: list[tuple[Chain | None, Verified | Unverified]] = []
    for chain in sorted(chains, key=lambda chain: (chain.org_id, chain.environment)):
        try:
            found.append((chain, await _verify_one(chain, 1, with_bar, services)))
        except (PrecipiqError, OSError) as error:
            found.append((chain, Unverified(error)))
    return found


async def _verify_one(chain: Chain, from_seq: int, with_bar: bool, services: Services) -> Verified:
    auditor = services.get(LedgerService).store.auditor()
    last_seq = await asyncio.to_thread(auditor.last_seq, chain)
    with _bar("verifying", last_seq - from_seq + 1, shown=with_bar) as progress:
        verdict = await services.get(Verifier).verify(auditor, chain, from_seq, progress=progress)
    verdict = await services.get(RowTrust).judged(chain, verdict)
    return Verified(verdict, services.get(Clock).now_us())


@dataclass(frozen=True)
class Verified:
    """A chain about which there is a verdict. ``at_us``: when it was given, microseconds since the epoch."""

    verdict: ChainVerdict
    at_us: int

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES.get(self.verdict.verdict, 0)


@dataclass(frozen=True)
class Unverified:
    """A chain that could not be checked, and why."""

    error: Exception
    exit_code: int = EXIT_COULD_NOT_CHECK


def _document(chain: Chain | None, found: Verified | Unverified, is_named: bool) -> dict[str, Any]:
    name = {"org_id": chain.org_id, "environment": chain.environment} if chain and is_named else {}
    if isinstance(found, Verified):
        return {**name, **verdict_record(found.verdict, found.at_us)}
    reason = "; ".join(problems_of(found.error))
    return {**name, "is_valid": None, "verdict": COULD_NOT_CHECK, "reason": reason}


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


def _show(name: str, found: Verified | Unverified, as_json: bool) -> None:
    """For people; beside a JSON document only why nothing could be checked."""
    for problem in problems_of(found.error) if isinstance(found, Unverified) else _nothing_checked(found.verdict):
        click.echo(f"error: {name}could not check: {problem}", err=True)
    if isinstance(found, Unverified) or found.exit_code == EXIT_COULD_NOT_CHECK:
        return
    lines = [] if as_json else list(_lines(found.verdict, found.at_us))
    for line in lines:
        click.echo(name + line)


def _nothing_checked(verdict: ChainVerdict) -> list[str]:
    if verdict.verdict != COULD_NOT_CHECK:
        return []
    return [f"{finding.code}: {finding.reason}" for finding in verdict.findings]


def _lines(verdict: ChainVerdict, now_us: int) -> Iterator[str]:
    checkpoints = verdict.checkpoints
    if verdict.broken is None:
        yield f"intact: {verdict.checked_count} entries, head {verdict.head_seq} {verdict.head_hash}"
    for found in verdict.findings:
        word = "BROKEN" if first_failing([found]) else "finding"
        yield f"{word} at entry {found.seq} ({found.id or 'no id'}): {found.code}: {found.reason}"
    yield f"verdict: {verdict.verdict}, {checkpoints.compared_count} checkpoints compared"
    if checkpoints.newest_seq is not None:
        age_s = newest_age_s(checkpoints, now_us)
        yield f"newest checkpoint: of entry {checkpoints.newest_seq}, {checkpoints.newest_time}, {age_s} s ago"
    for sentence in verdict.unchecked:
        yield f"not checked: {sentence}"
    for window in () if verdict.verdict == FAILED else windows(checkpoints.newest_seq, verdict.exempt_through):
        yield f"a thief ({window.threat}) could {window.act} {_entries(window)}: {window.sentence}"
    for step in next_steps(verdict.findings):
        yield f"what to do: {step}"


def _entries(window: Window) -> str:
    if window.from_seq is None:
        return "no entry"
    through = "and all after" if window.through_seq is None else f"to {window.through_seq}"
    return f"entries {window.from_seq} {through}{', at worst' if window.is_worst_case else ''}"


ledger_group.add_command(restored)


@ledger_group.command()
@chain_options
@click.option("--after-seq", type=click.IntRange(0, _SEQ.max), default=0, show_default=True, help="entries after it")
@click.option("--output", type=OutputFile(), default="-", help="file to write [default: standard output]")
@click.pass_context
def entries(ctx: click.Context, org_id: str, environment: str, after_seq: int, output: Path) -> None:
    """Write the raw entries of a chain as JSON lines, oldest first."""
    chain = Chain(org_id, cast("Environment", environment))
    count = run_in_deployment(ctx, partial(_write_entries, chain, after_seq, output))
    click.echo(f"{count} entries", err=True)


async def _write_entries(chain: Chain, after_seq: int, output: Path, services: Services) -> int:
    await must_exist(chain, services)
    service = services.get(LedgerService)
    head = await service.head(chain)
    last_seq = head.seq if head else 0
    if after_seq > last_seq:
        raise ValidationFailed(f"there is nothing after entry {after_seq}: the chain ends with entry {last_seq}")
    count = 0
    with (
        open_output(output) as stream,
        _bar("reading", last_seq - after_seq, shown=not stream.isatty()) as progress,
    ):
        while page := await service.read(chain, after_seq, _PAGE_ENTRIES):
            for entry in page:
                stream.write(orjson.dumps(raw_entry(entry)) + b"\n")
            count += len(page)
            progress(len(page))
            after_seq = page[-1].seq
    return count
