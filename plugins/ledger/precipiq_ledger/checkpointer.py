"""Signs a checkpoint of every chain that moved, at an interval: into the file, and into the log as a first witness."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import cast

import structlog

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import Chain, Environment, Head
from precipiq_contracts.clock import Clock
from precipiq_contracts.entry_store import EntryStore
from precipiq_ledger.checkpoints import Checkpoint, CheckpointFiles, CheckpointSigner

log = structlog.get_logger("precipiq.ledger")

_REMEMBERED_CHAINS_MAX = 100_000


class Checkpointer:
    """Writes checkpoints while the deployment serves, and once more when it stops.

    ``on_signed`` is called with each checkpoint that this node signed, ``on_head`` with each head that it reads.
    ``may_sign``: whether the entries after that seq, up to that head, are the sealer's; others are not signed.
    """

    def __init__(
        self, store: EntryStore, signer: CheckpointSigner, files: CheckpointFiles, clock: Clock, interval_s: float
    ) -> None:
        self._store = store
        self._signer = signer
        self._files = files
        self._clock = clock
        self._interval_s = interval_s
        self._written: dict[Chain, int] = {}
        self._writing = asyncio.Lock()
        self.on_signed: Callable[[Chain, Checkpoint], None] = lambda chain, checkpoint: None
        self.on_head: Callable[[Chain, Head | None], object] = lambda chain, head: None
        self.may_sign: Callable[[Chain, int, Head], Awaitable[bool]] | None = None

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Write while the context is entered, and once more at its end."""
        return background(
            "ledger.checkpoints",
            self.write_all,
            every_s=self._interval_s,
            failing="checkpoints not written",
            waits_first=True,
            round_s_max=LONG_ROUND_S_MAX,
            final=self.write_all,
        )

    async def write_all(self) -> int:
        """Write a checkpoint of every chain whose head moved since its last one; gives their number.

        Raises the first error at the end: a chain whose file is broken keeps no other from its checkpoint.
        """
        count = 0
        failure: Exception | None = None
        async for chain in self._store.chains():
            head = await self._store.head(chain)
            self.on_head(chain, head)
            if head is None or self._written.get(chain) == head.seq:
                continue
            if len(self._written) >= _REMEMBERED_CHAINS_MAX:
                self._written.clear()
            try:
                count += await self._write(chain, head)
            except Exception as error:  # noqa: BLE001  (raised below)
                failure = failure or error
                continue
            self._written[chain] = head.seq
        if failure is not None:
            raise failure
        return count

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Write another node's checkpoint, unless this node holds one at least as new."""
        chain = Chain(checkpoint.org_id, cast("Environment", checkpoint.environment))
        async with self._writing:
            newest = await asyncio.to_thread(self._files.newest, chain)
            if newest is None or newest.seq < checkpoint.seq:
                await asyncio.to_thread(self._files.append, checkpoint)

    async def _write(self, chain: Chain, head: Head) -> bool:
        async with self._writing:
            checkpoint = await self._next(chain, head)
            if checkpoint is None:
                return False
            await asyncio.to_thread(self._files.append, checkpoint)
        self.on_signed(chain, checkpoint)
        log.info(
            "checkpoint",
            org_id=checkpoint.org_id,
            environment=checkpoint.environment,
            seq=checkpoint.seq,
            hash=checkpoint.hash,
            time=checkpoint.time,
            key=checkpoint.key_id,
            signature=checkpoint.signature,
        )
        return True

    async def _next(self, chain: Chain, head: Head) -> Checkpoint | None:
        """A checkpoint of that head, unless this node holds one."""
        newest = await asyncio.to_thread(self._files.newest, chain)
        if newest is not None and newest.seq > head.seq:
            head = await self._store.head(chain) or head  # another node may have signed since
        if newest is not None and newest.seq > head.seq:
            self._warn_of_rollback(chain, head, newest.seq)
            return None
        if newest is not None and (newest.seq, newest.hash) == (head.seq, head.hash):
            return None
        if self.may_sign is not None and not await self.may_sign(chain, 0 if newest is None else newest.seq, head):
            return None
        return self._signer.sign(chain, head, self._clock.now_us())

    async def compare_heads(self) -> None:
        """Compare the heads at the start; log an error when a chain is shorter than in a checkpoint."""
        async for chain in self._store.chains():
            newest = None
            with suppress(ValueError):
                newest = await asyncio.to_thread(self._files.newest, chain)
            head = await self._store.head(chain)
            self.on_head(chain, head)
            if newest is not None and head is not None and newest.seq > head.seq:
                self._warn_of_rollback(chain, head, newest.seq)

    @staticmethod
    def _warn_of_rollback(chain: Chain, head: Head, seen_seq: int) -> None:
        log.critical(
            "chain is shorter than a checkpoint saw it: its tail was cut or an old copy restored",
            org_id=chain.org_id,
            environment=chain.environment,
            head_seq=head.seq,
            checkpoint_seq=seen_seq,
        )
