"""Signs a checkpoint of every chain that moved, at an interval: into the file, and into the log as a first witness.

It signs nothing that contradicts what it signed before, and nothing over a break that is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from weakref import WeakValueDictionary

import structlog

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.clock import Clock
from precipiq_contracts.entry_store import EntryStore
from precipiq_contracts.errors import Unavailable
from precipiq_ledger.checkpoint_files import CheckpointFiles, Place, UnnameableChain, file_name
from precipiq_ledger.checkpoint_manifest import CheckpointManifest, ManifestRefused
from precipiq_ledger.checkpoints import Checkpoint, CheckpointSigner
from precipiq_ledger.heads import heads_of

log = structlog.get_logger("precipiq.ledger")

_REMEMBERED_CHAINS_MAX = 100_000
_AT_ONCE = 16
"""Files that are written at the same time: the file system makes them durable together."""
STOP_S_MAX = 5.0
"""How long the checkpoints at the end may take; the next start writes those that are left."""
_SHORTER = "chain is shorter than a checkpoint saw it: its tail was cut or an old copy restored"
_REWRITTEN = "chain was rewritten: it does not extend its newest checkpoint, and gets no other"
_BROKEN = "chain has a known break: it gets no checkpoint"
_UNNAMEABLE = "rows of a chain that no organisation can have: it gets no checkpoint"
_MISSING = "a chain that has checkpoints is not in the database: its entries were deleted or another copy restored"
_LOST = "a chain's file of checkpoints was removed or cut"


@dataclass(frozen=True, slots=True)
class _Anchor:
    """The newest checkpoint that this installation signed for a chain."""

    seq: int
    hash: str


class Checkpointer:
    """Writes checkpoints while the deployment serves, and once more when it stops.

    ``on_signed`` is called with each checkpoint that this node signed, ``on_head`` with each head that it reads.
    ``on_round`` is called after each round that could ask the store for all chains, whether it could write or not.
    ``may_sign`` says of a chain whether no break of it is known; it is asked, on the event loop, before each signature.
    ``is_authentic`` says whether the entries after that seq, up to that head, are the sealer's; others are not signed.
    """

    def __init__(
        self,
        store: EntryStore,
        signer: CheckpointSigner,
        files: CheckpointFiles,
        manifest: CheckpointManifest,
        clock: Clock,
        interval_s: float,
    ) -> None:
        self.signer = signer
        self._store = store
        self._files = files
        self._manifest = manifest
        self._clock = clock
        self._interval_s = interval_s
        self._written: dict[Chain, int] = {}
        self._refused: dict[Chain, str] = {}
        self._unnoted: dict[Chain, Place] = {}
        self._writing: WeakValueDictionary[Chain, asyncio.Lock] = WeakValueDictionary()
        self._noting = asyncio.Lock()
        self.on_signed: Callable[[Chain, Checkpoint], None] = lambda chain, checkpoint: None
        self.on_head: Callable[[Chain, Head | None], object] = lambda chain, head: None
        self.on_round: Callable[[], None] = lambda: None
        self.may_sign: Callable[[Chain], bool] = lambda chain: True
        self.is_authentic: Callable[[Chain, int, Head], Awaitable[bool]] | None = None

    @asynccontextmanager
    async def run(self, background: Background) -> AsyncIterator[None]:
        """Write while the context is entered, and once more at its end."""
        task: AbstractAsyncContextManager[None] = background(
            "ledger.checkpoints",
            self.write_all,
            every_s=self._interval_s,
            failing="checkpoints not written",
            waits_first=True,
            round_s_max=LONG_ROUND_S_MAX,
            final=partial(self.write_all, within_s=STOP_S_MAX),
        )
        with self._manifest.serving():
            async with task:
                yield

    async def start(self) -> None:
        """Compare files, manifest and database before anything is served; the log tells what is wrong."""
        unseen: set[Chain] = set()
        try:
            self._tell_lost(await asyncio.to_thread(self._manifest.start))
        except ManifestRefused as error:
            self._tell_refused_manifest(error)
        except OSError as error:
            log.error("the manifest of the checkpoints is not written", error=str(error))
        with suppress(OSError):
            unseen = await asyncio.to_thread(self._manifest.chains)
        async for chain, known in heads_of(self._store):
            unseen.discard(chain)
            try:
                file_name(chain)
                head = known or await self._store.head(chain)
                self.on_head(chain, head)
                if head is not None:
                    await self._compare_at_start(chain, head)
            except (ValueError, OSError):
                continue  # the rounds tell
        for chain in sorted(unseen, key=lambda chain: (chain.org_id, chain.environment)):
            log.critical(_MISSING, org_id=chain.org_id, environment=chain.environment)

    async def _compare_at_start(self, chain: Chain, head: Head) -> None:
        record = self._manifest.record_of(chain)
        if record is not None and (record.seq, record.hash) == (head.seq, head.hash):
            self._written[chain] = head.seq
            return
        anchor = await asyncio.to_thread(self._anchor, chain)
        if anchor is not None and anchor.seq > head.seq:
            self._refuse(chain, _SHORTER, head_seq=head.seq, checkpoint_seq=anchor.seq)

    async def write_all(self, *, within_s: float | None = None) -> int:
        """Write a checkpoint of every chain whose head moved since its last one; gives their number.

        ``within_s``: begin no more after that time, and log how many chains wait for the next round.
        Raises the first error at the end: a chain whose file is broken keeps no other from its checkpoint.
        """
        until_s = None if within_s is None else self._clock.monotonic_s() + within_s
        try:
            count = await self._write_those(heads_of(self._store), until_s)
        except Unavailable:
            raise
        except Exception:
            self.on_round()
            raise
        self.on_round()
        return count

    async def write_for(self, chains: Iterable[Chain]) -> int:
        """The same for these chains."""

        async def given() -> AsyncIterator[tuple[Chain, Head | None]]:
            for chain in chains:
                yield chain, None

        return await self._write_those(given())

    async def _write_those(self, heads: AsyncIterator[tuple[Chain, Head | None]], until_s: float | None = None) -> int:
        signed: list[bool | BaseException] = []
        group: list[tuple[Chain, Head | None]] = []
        left_count = 0
        async for chain, head in heads:
            if head is not None and self._written.get(chain) == head.seq:
                self.on_head(chain, head)
            elif until_s is not None and self._clock.monotonic_s() >= until_s:
                left_count += 1
            else:
                group.append((chain, head))
            if len(group) == _AT_ONCE:
                signed += await asyncio.gather(*starmap(self._look_at, group), return_exceptions=True)
                group = []
        signed += await asyncio.gather(*starmap(self._look_at, group), return_exceptions=True)
        await self.note()
        if left_count:
            log.warning("checkpoints of some chains wait for the next start", chains=left_count)
        for result in signed:
            if isinstance(result, BaseException):
                raise result
        return sum(map(bool, signed))

    async def _look_at(self, chain: Chain, known: Head | None) -> bool:
        try:
            file_name(chain)  # before the store is asked for what no chain can be called
        except UnnameableChain as error:
            self._refuse(chain, _UNNAMEABLE, reason=str(error))
            return False
        head = known or await self._store.head(chain)
        self.on_head(chain, head)
        if head is None or self._written.get(chain) == head.seq:
            return False
        is_signed = await self._write(chain, head)
        if chain not in self._refused:
            if len(self._written) >= _REMEMBERED_CHAINS_MAX:
                self._written.clear()
            self._written[chain] = head.seq
        return is_signed

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Write another node's checkpoint, unless this node holds one at least as new. Call :meth:`note` afterwards."""
        chain = checkpoint.chain
        async with self._writing.setdefault(chain, asyncio.Lock()):
            anchor = await asyncio.to_thread(self._anchor, chain)
            if anchor is None or anchor.seq < checkpoint.seq:
                self._unnoted[chain] = await asyncio.to_thread(self._files.append, checkpoint)

    async def note(self) -> None:
        """Put what was written into the manifest. Raises ``OSError``."""
        async with self._noting:
            places = dict(self._unnoted)
            if not places:
                return
            try:
                self._tell_lost(await asyncio.to_thread(self._manifest.note, places))
            except ManifestRefused as error:
                self._tell_refused_manifest(error)
            for chain in [chain for chain, place in places.items() if self._unnoted.get(chain) is place]:
                del self._unnoted[chain]

    async def _write(self, chain: Chain, head: Head) -> bool:
        async with self._writing.setdefault(chain, asyncio.Lock()):
            anchor = await asyncio.to_thread(self._anchor, chain)
            if not await self._may_follow(chain, head, anchor):
                return False
            self._refused.pop(chain, None)
            if anchor is not None and anchor.seq >= head.seq:
                return False  # another node or process signed this head
            checkpoint = self.signer.sign(chain, head, self._clock.now_us())
            self._unnoted[chain] = await asyncio.to_thread(self._files.append, checkpoint)
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

    def _anchor(self, chain: Chain) -> _Anchor | None:
        """From the file or the manifest, whichever is newer. Blocks."""
        place = self._files.newest(chain, self.signer)
        record = self._manifest.record_of(chain)
        if record is not None and (place is None or place.checkpoint.seq < record.seq):
            return _Anchor(record.seq, record.hash)
        return None if place is None else _Anchor(place.checkpoint.seq, place.checkpoint.hash)

    async def _may_follow(self, chain: Chain, head: Head, anchor: _Anchor | None) -> bool:
        """Whether a checkpoint of that head contradicts nothing that is known."""
        if not self.may_sign(chain):
            self._refuse(chain, _BROKEN, head_seq=head.seq)
            return False
        if anchor is None:
            return await self._is_authentic(chain, 0, head)
        if anchor.seq > head.seq:
            head = await self._store.head(chain) or head  # another node may have signed since
        if anchor.seq > head.seq:
            self._refuse(chain, _SHORTER, head_seq=head.seq, checkpoint_seq=anchor.seq)
            return False
        if await self._hash_at(chain, anchor.seq, head) != anchor.hash:
            self._refuse(chain, _REWRITTEN, head_seq=head.seq, checkpoint_seq=anchor.seq)
            return False
        return await self._is_authentic(chain, anchor.seq, head)

    async def _is_authentic(self, chain: Chain, after_seq: int, head: Head) -> bool:
        return self.is_authentic is None or await self.is_authentic(chain, after_seq, head)

    async def _hash_at(self, chain: Chain, seq: int, head: Head) -> str | None:
        """Through the store's own connections: an auditor opens one for each question."""
        if seq == head.seq:
            return head.hash
        entries = await self._store.read(chain, seq - 1, 1)
        return entries[0].hash if entries and entries[0].seq == seq else None

    def _refuse(self, chain: Chain, event: str, **what: object) -> None:
        """Tell it once for each chain, until it gets a checkpoint again."""
        if self._refused.get(chain) == event:
            return
        if len(self._refused) >= _REMEMBERED_CHAINS_MAX:
            self._refused.clear()
        self._refused[chain] = event
        log.critical(event, org_id=chain.org_id, environment=chain.environment, **what)

    @staticmethod
    def _tell_lost(chains: Iterable[Chain]) -> None:
        for chain in chains:
            log.critical(_LOST, org_id=chain.org_id, environment=chain.environment)

    def _tell_refused_manifest(self, error: ManifestRefused) -> None:
        log.critical("the manifest of the checkpoints is refused, and not replaced", reason=str(error))
