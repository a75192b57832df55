"""Declares that an old copy of the database was restored: on the chain for good, with what was lost by it.

Each chain that its checkpoints or the sweep saw further gets an entry that names the last one they saw. What
contradicts it is set aside, not destroyed; from then on the chain has checkpoints again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from precipiq_chain.canonical import Json
from precipiq_chain.chain_format import parse_statement
from precipiq_chain.verify import INCONSISTENT_WITH_CHECKPOINT, ORG_MISSING, TRUNCATED
from precipiq_contracts.chain import SYSTEM, Chain, Draft, Entry
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import PrecipiqError, Unavailable
from precipiq_contracts.ledger import ChainBreak
from precipiq_core.key_files import make_folder
from precipiq_ledger.anchors import CODES_OF_FILES
from precipiq_ledger.checkpoint_files import CheckpointFiles, UnnameableChain
from precipiq_ledger.checkpoint_manifest import CheckpointManifest, Manifest
from precipiq_ledger.checkpoints import CheckpointSigner
from precipiq_ledger.service import RESTORE, LedgerService
from precipiq_ledger.sweep_book import SweepBook
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.verifier import Verifier

log = structlog.get_logger("precipiq.ledger")

_RESTORES_MAX = 1000
_BY_A_RESTORE = {TRUNCATED, INCONSISTENT_WITH_CHECKPOINT, ORG_MISSING} | CODES_OF_FILES


@dataclass(frozen=True, slots=True)
class Seen:
    """The last entry of a chain that was seen outside of the database."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Declared:
    """What became of one chain. ``seen``: what is lost; ``entry``: that tells of it; ``refused``: why there is none."""

    chain: Chain
    seen: Seen
    entry: Entry | None
    refused: ChainBreak | None


class Restores:
    """The declaration on one machine, over the open ledger. No server may run on its data folder meanwhile."""

    def __init__(
        self,
        service: LedgerService,
        verifier: Verifier,
        files: CheckpointFiles,
        signer: CheckpointSigner,
        sweeps: SweepFile,
        clock: Clock,
    ) -> None:
        self._service = service
        self._verifier = verifier
        self._files = files
        self._signer = signer
        self._manifest = CheckpointManifest(files, signer, clock)
        self._sweeps = sweeps
        self._clock = clock

    async def declare(self, reason: str) -> list[Declared]:
        """Declare it for each chain that this machine saw further; gives those chains.

        A chain that is broken in itself is refused. Called again, it goes on where it ended. Raises ``Unavailable``
        while a server runs, ``OSError``, and ``ValueError`` for a record of sweeps that is not this deployment's.
        """
        if await asyncio.to_thread(self._manifest.is_serving):
            raise Unavailable("a server runs on this data folder: stop it first")
        with self._sweeps.locked() as is_mine:
            if not is_mine:
                raise Unavailable("a server runs on this data folder: stop it first")
            book = await asyncio.to_thread(self._sweeps.read)
            done = [item async for item in self._declare_all(reason, book or SweepBook())]
            chains = {item.chain for item in done if item.entry is not None}
            if chains:
                await asyncio.to_thread(self._set_aside, chains, book)
        return done

    async def _declare_all(self, reason: str, book: SweepBook) -> AsyncIterator[Declared]:
        stored = {chain async for chain in self._service.store.chains()}
        known = stored | book.chains.keys() | await asyncio.to_thread(self._verifier.checkpointed_chains)
        manifest = await asyncio.to_thread(self._manifest.read)
        for chain in sorted(known, key=lambda chain: (chain.org_id, chain.environment)):
            try:
                seen = await self._lost(chain, book, manifest)
            except UnnameableChain:
                continue  # rows of no chain, which no checkpoint can be of
            if seen is not None:
                yield await self._declare_one(chain, seen, reason)

    async def _declare_one(self, chain: Chain, seen: Seen, reason: str) -> Declared:
        try:
            verdict = await self._verifier.verify(self._service.store.auditor(), chain)
            if verdict.broken is not None and verdict.broken.code not in _BY_A_RESTORE:
                return Declared(chain, seen, None, verdict.broken)
            return Declared(chain, seen, await self._append(chain, seen, reason), None)
        except PrecipiqError as error:  # of this chain: the others are declared
            return Declared(chain, seen, None, ChainBreak(seen.seq, "COULD_NOT_CHECK", error.message))

    async def _lost(self, chain: Chain, book: SweepBook, manifest: Manifest | None) -> Seen | None:
        """The furthest that was seen of the chain, if the chain has not that entry."""
        place = await asyncio.to_thread(self._files.newest, chain, self._signer)
        record = None if manifest is None else manifest.records.get(chain)
        swept = book.chains.get(chain)
        seen = [
            *([] if place is None else [Seen(place.checkpoint.seq, place.checkpoint.hash)]),
            *([] if record is None else [Seen(record.seq, record.hash)]),
            *([] if swept is None or not swept.tail.seq else [Seen(swept.tail.seq, swept.tail.hash)]),
        ]
        if not seen:
            return None
        furthest = max(seen, key=lambda each: each.seq)
        hashes = await asyncio.to_thread(self._service.store.auditor().hashes_at, chain, [each.seq for each in seen])
        holds = all(stored == each.hash for each, stored in zip(seen, hashes, strict=True))
        return None if holds else furthest

    async def _append(self, chain: Chain, seen: Seen, reason: str) -> Entry:
        for entry in await self._service.read(chain, 0, _RESTORES_MAX, RESTORE):
            told = parse_statement(entry.statement).body
            if (told.get("lost_seq"), told.get("lost_hash")) == (seen.seq, seen.hash):
                return entry  # another machine declared it, or this one before it was killed
        body: dict[str, Json] = {"lost_seq": seen.seq, "lost_hash": seen.hash, "reason": reason}
        key = f"ledger:restore:{seen.seq}:{seen.hash}"
        entry = (await self._service.append(chain, [Draft(RESTORE, SYSTEM, body, None, key)])).entries[0]
        log.warning("the restore of an old copy is declared", org_id=chain.org_id, environment=chain.environment,
                    seq=entry.seq, lost_seq=seen.seq, reason=reason)  # fmt: skip
        return entry

    def _set_aside(self, chains: set[Chain], book: SweepBook | None) -> None:
        """Move what contradicts these chains into a folder of its own. Blocks."""
        folder = self._folder()
        make_folder(folder)
        self._manifest.set_aside(chains, folder)
        for chain in chains:
            self._files.set_aside(chain, folder)
        if book is not None:
            self._sweeps.keep_copy(folder)
            for chain in chains:
                book.chains.pop(chain, None)
            self._sweeps.write(book)

    def _folder(self) -> Path:
        """A new one, beside the files that move there."""
        return self._files.folder / f"restored.{self._clock.now_us()}"
