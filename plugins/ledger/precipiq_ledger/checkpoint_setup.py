"""Puts the checkpoints of a deployment together: those of a server, and those of a command that appended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database
from precipiq_contracts.errors import PrecipiqError
from precipiq_contracts.services import Services
from precipiq_contracts.vault import MasterKey
from precipiq_ledger.anchors import AnchorAge
from precipiq_ledger.authenticity import Authenticity
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoint_manifest import CheckpointManifest
from precipiq_ledger.checkpoints import CheckpointSigner
from precipiq_ledger.clock_watch import ClockWatch
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.service import LedgerService

if TYPE_CHECKING:
    from precipiq_ledger.checkpointer import Checkpointer

log = structlog.get_logger("precipiq.ledger")


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """What checkpoints are made with. ``interval_s``: seconds between two rounds of a server."""

    files: CheckpointFiles
    watch: ClockWatch
    age: AnchorAge
    authenticity: Authenticity
    integrity: Integrity
    interval_s: float


@asynccontextmanager
async def run_checkpoints(parts: Checkpointing, services: Services, *, exchanged: bool) -> AsyncIterator[None]:
    """Write checkpoints while the context is entered. ``exchanged``: whether machines send each other theirs."""
    checkpointer = _checkpointer(parts, services)
    checkpointer.on_head = parts.watch.note_head
    checkpointer.may_sign = parts.integrity.may_sign
    checkpointer.on_round = parts.age.note_round
    checkpointer.is_authentic = parts.authenticity.may_sign
    parts.files.keep_private()
    parts.age.start()
    await checkpointer.start()
    background = services.get(Background)
    async with AsyncExitStack() as stack:
        if exchanged:
            from precipiq_ledger.checkpoint_exchange import CheckpointExchange

            database, clock = services.get(Database), services.get(Clock)
            exchange = CheckpointExchange(database, checkpointer.signer, checkpointer, clock)
            await stack.enter_async_context(exchange.run(background))
        # Left first: the exchange sends what the checkpointer signs at its end.
        await stack.enter_async_context(checkpointer.run(background))
        yield


@asynccontextmanager
async def checkpoints_of_command(parts: Checkpointing, services: Services) -> AsyncIterator[None]:
    """What a command appends gets a checkpoint when it ends: no server may run for long."""
    service = services.get(LedgerService)
    grown: set[Chain] = set()
    service.on_append = grown.add
    try:
        yield
    finally:
        if grown:
            try:
                await _checkpointer(parts, services).write_for(grown)
            except (PrecipiqError, OSError) as error:
                log.warning("checkpoints not written", error=str(error))


def _checkpointer(parts: Checkpointing, services: Services) -> Checkpointer:
    from precipiq_ledger.checkpointer import Checkpointer  # not for commands that append nothing

    signer, clock = CheckpointSigner(services.get(MasterKey)), services.get(Clock)
    manifest = CheckpointManifest(parts.files, signer, clock)
    store = services.get(LedgerService).store
    return Checkpointer(store, signer, parts.files, manifest, clock, parts.interval_s)
