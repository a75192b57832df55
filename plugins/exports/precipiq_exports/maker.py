"""Makes one bundle: fixes its range, verifies it, has a process write the file, and signs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from precipiq_chain.verify import UNAUTHENTIC_ENTRY
from precipiq_contracts.chain import Chain, EntryKind
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import ChainAudit, ChainVerdict, Ledger
from precipiq_contracts.registries import EntryKinds
from precipiq_core import __version__
from precipiq_core.key_files import make_folder
from precipiq_exports.bundle.spec import BundleSpec, BundleSummary, BundleTask, SigningKeyInfo, Table
from precipiq_exports.bundle_process import run_bundle_worker
from precipiq_exports.errors import UnauthenticEntry
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import Job, Lease, Range
from precipiq_exports.leases import LeaseLost, Progress
from precipiq_exports.ranges import range_of
from precipiq_exports.signer import fingerprint, public_key_pem
from precipiq_exports.signing_key_store import SigningKey
from precipiq_exports.signing_keys import SigningKeys

_TURNS = range(20)
_BETWEEN_TURNS_S = 3.0


@dataclass(frozen=True, slots=True)
class MadeBundle:
    """A finished bundle in the work folder. ``result``: its part of the contract's shape."""

    path: Path
    range: Range
    size_bytes: int
    sha256: str
    result: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MakerOptions:
    """``work_folder``: where bundles are written. The rest: see the settings of the same names."""

    work_folder: Path
    batch_entries: int
    compression_level: int


class BundleMaker:
    """The steps from a claimed export to its signed file. ``kinds``: complete once the application runs."""

    def __init__(
        self,
        store: JobStore,
        keys: SigningKeys,
        ledger: Ledger,
        audit: ChainAudit,
        kinds: EntryKinds,
        options: MakerOptions,
    ) -> None:
        self._store = store
        self._keys = keys
        self._ledger = ledger
        self._audit = audit
        self._kinds = kinds
        self._options = options

    async def make(self, job: Job, lease: Lease, progress: Progress) -> MadeBundle:
        """Make the export's bundle. Raises ``LeaseLost``, ``VaultRefused``, ``UnauthenticEntry``, ``KeyUnanchored``
        and ``Unavailable``; leaves no file then.
        """
        key = await self._keys.current(job.chain)
        range = job.range or await self._fix_range(job, lease)
        tables = tables_of(self._kinds.by_name.values())
        progress.steps_total = range.entries_count * (2 + len(tables) * len(job.request.formats))
        verdict = await self._verify(job.chain, range, progress)
        if verdict.broken is not None and verdict.broken.code == UNAUTHENTIC_ENTRY:
            raise UnauthenticEntry(f"entry {verdict.broken.seq}: {verdict.broken.reason}")
        verification = _verification(range, verdict, self._audit.describe(verdict, job.created_us))
        spec = _spec(job, range, key, verification, tables, self._options)
        path = self._options.work_folder / job.bundle
        await asyncio.to_thread(make_folder, path.parent)

        async def sign(digest: bytes) -> bytes:
            return await self._keys.sign(key, digest)

        try:
            task = BundleTask(self._audit.auditor(), spec, path)
            summary = await run_bundle_worker(task, sign, progress.advance)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))
            raise
        return MadeBundle(path, range, summary.size_bytes, summary.sha256, _result(summary, key, verdict))

    async def _verify(self, chain: Chain, range: Range, progress: Progress) -> ChainVerdict:
        """Verify the range; wait for a turn, so that clients' verifications make no export fail."""
        for _ in _TURNS:
            before = progress.steps_done
            try:
                return await self._audit.verify(chain, range.after_seq + 1, range.through_seq, progress.advance)
            except Unavailable:
                progress.steps_done = before
                await asyncio.sleep(_BETWEEN_TURNS_S)
        return await self._audit.verify(chain, range.after_seq + 1, range.through_seq, progress.advance)

    async def _fix_range(self, job: Job, lease: Lease) -> Range:
        head = await self._ledger.head(job.chain)
        last_seq = 0 if head is None else head.seq
        range = await asyncio.to_thread(range_of, self._audit.auditor(), job.chain, job.request, last_seq)
        if not await self._store.fix_range(lease, range):
            raise LeaseLost
        return range


def tables_of(kinds: Iterable[EntryKind]) -> tuple[Table, ...]:
    """The lists that bundles hold beside the raw entries, by name; a table holds its kinds together."""
    by_name: dict[str, list[EntryKind]] = {}
    for kind in kinds:
        if kind.table is not None:
            by_name.setdefault(kind.table, []).append(kind)
    return tuple(
        Table(
            name,
            tuple(sorted(kind.name for kind in members)),
            _in_order(kind.body_fields for kind in members),
            _in_order(kind.payload_fields for kind in members),
        )
        for name, members in sorted(by_name.items())
    )


def _in_order(fields: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in fields for name in names))


def _spec(
    job: Job,
    range: Range,
    key: SigningKey,
    verification: Mapping[str, object],
    tables: tuple[Table, ...],
    options: MakerOptions,
) -> BundleSpec:
    return BundleSpec(
        export_id=job.export_id,
        chain=job.chain,
        created_us=job.created_us,
        actor=job.actor,
        filters=job.request.filters,
        after_seq=range.after_seq,
        through_seq=range.through_seq,
        formats=job.request.formats,
        tables=tables,
        verification=verification,
        signing_key=_key_info(key),
        software_version=__version__,
        batch_entries=options.batch_entries,
        compression_level=options.compression_level,
    )


def _key_info(key: SigningKey) -> SigningKeyInfo:
    return SigningKeyInfo(key.key_id, public_key_pem(key.public_key), fingerprint(key.public_key), key.announced_seq)


def _verification(range: Range, verdict: ChainVerdict, grade: Mapping[str, object]) -> dict[str, object]:
    """The server's verdict on the range, for this bundle. ``grade``: see ``ChainAudit.describe``."""
    return {
        **grade,
        "is_valid": verdict.is_valid,
        "first_seq": range.after_seq + 1,
        "last_seq": range.through_seq,
        "entries_checked": verdict.checked_count,
        "first_break": None if verdict.broken is None else asdict(verdict.broken),
        "checkpoints": {
            "compared": verdict.checkpoints.compared_count,
            "signatures_checked": verdict.checkpoints.signatures_checked_count,
            "newest_seq": verdict.checkpoints.newest_seq,
        },
    }


def _result(summary: BundleSummary, key: SigningKey, verdict: ChainVerdict) -> dict[str, object]:
    return {
        "entries": summary.entries_count,
        "counts": dict(summary.counts),
        "is_valid": verdict.is_valid,
        "verdict": verdict.verdict,
        "signing_key": {"key_id": key.key_id, "fingerprint": fingerprint(key.public_key)},
    }
