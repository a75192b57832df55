"""``precipiq ledger restored``: go on after an old copy of the database was restored on purpose."""

from __future__ import annotations

from functools import partial

import click
import orjson

from precipiq_chain.entry_record import raw_entry
from precipiq_contracts.clock import Clock
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.services import Services
from precipiq_contracts.vault import MasterKey
from precipiq_core.cli.context import json_option, refuse_bytes, run_in_deployment
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoints import CheckpointSigner
from precipiq_ledger.restores import Declared, Restores
from precipiq_ledger.service import LedgerService
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.verifier import Verifier

_EXIT_REFUSED = 1


@click.command()
@click.option("--reason", required=True, callback=refuse_bytes, help="why: it stands in the chains for good")
@json_option
@click.pass_context
def restored(ctx: click.Context, reason: str, as_json: bool) -> None:
    """Declare that an old copy of the database was restored: what was lost stands in each chain then.

    For every chain that a checkpoint of this machine, or its sweep, saw further. Stop the server first. Exit code:
    0 declared, or nothing to declare; 1 a chain is broken otherwise, and is left as it is; 2 could not.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= 1000:
        raise click.UsageError("--reason takes 1 to 1000 characters")
    done = run_in_deployment(ctx, partial(_declare, reason))
    if as_json:
        click.echo(orjson.dumps({"chains": [_document(each) for each in done]}))
    elif not done:
        click.echo("nothing to declare: every chain has all that its checkpoints and the sweep saw")
    else:
        for each in done:
            click.echo(_line(each))
    if any(each.refused is not None for each in done):
        ctx.exit(_EXIT_REFUSED)


async def _declare(reason: str, services: Services) -> list[Declared]:
    data_dir = services.get(DeploymentInfo).data_dir
    master_key = services.get(MasterKey)
    restores = Restores(
        services.get(LedgerService),
        services.get(Verifier),
        services.get(CheckpointFiles),
        CheckpointSigner(master_key),
        SweepFile(data_dir / "sweep", master_key),
        services.get(Clock),
    )
    try:
        return await restores.declare(reason)
    except (OSError, ValueError) as error:  # of files that somebody altered: they say nothing of what was seen
        raise Unavailable(f"what this machine saw cannot be read: {error}") from error


def _document(each: Declared) -> dict[str, object]:
    return {
        "org_id": each.chain.org_id,
        "environment": each.chain.environment,
        "lost": {"seq": each.seen.seq, "hash": each.seen.hash},
        "entry": None if each.entry is None else raw_entry(each.entry),
        "refused": None if each.refused is None else {"seq": each.refused.seq, "code": each.refused.code},
    }


def _line(each: Declared) -> str:
    name = f"{each.chain.org_id} {each.chain.environment}"
    if each.refused is not None:
        broken = each.refused
        return f"{name}: REFUSED: broken at entry {broken.seq}: {broken.code}: {broken.reason}"
    assert each.entry is not None
    return f"{name}: entry {each.entry.seq} declares that what was seen up to entry {each.seen.seq} is lost"
