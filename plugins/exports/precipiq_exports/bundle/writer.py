"""Writes a bundle in one pass: each file straight from the store, then the manifest from the digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from precipiq_contracts.entry_store import EntryAuditor
from precipiq_exports.bundle import verify
from precipiq_exports.bundle.archive import FileDigest, Member, archive, in_chunks
from precipiq_exports.bundle.entries import EntriesPass, NamedEntry
from precipiq_exports.bundle.guide import guide
from precipiq_exports.bundle.manifest import document_bytes, manifest_bytes
from precipiq_exports.bundle.rows import Progress, Rows
from precipiq_exports.bundle.spec import BundleSpec, BundleSummary
from precipiq_exports.bundle.tables import TablePass

VERIFIER = Path(verify.__file__)

Sign = Callable[[bytes], bytes]


def write_bundle(
    auditor: EntryAuditor, spec: BundleSpec, out: BinaryIO, sign: Sign, progress: Progress = lambda _: None
) -> BundleSummary:
    """Write the ZIP to ``out``, which need not seek.

    ``sign``: the signature (256 bytes) of a SHA-256 digest. ``progress`` gets each number of rows read, in each
    of the passes (one for the raw entries, one for each list).

    Each pass reads the store as it is then: a payload that is erased meanwhile may still stand in the raw entries, and
    be missing from a list. Verifiers know that and say so.
    """
    rows = Rows(auditor, spec, progress)
    entries = EntriesPass(rows, spec.signing_key.announced_seq)
    writing = _Writing(spec, rows, entries, sign)
    whole, size_bytes = sha256(), 0
    with closing(entries.context):
        for chunk in archive(writing.members(), spec.created_us, spec.compression_level, writing.files.append):
            whole.update(chunk)
            size_bytes += len(chunk)
            out.write(chunk)
    return BundleSummary(
        entries.count,
        dict(entries.by_kind),
        writing.table_rows,
        size_bytes,
        whole.hexdigest(),
        _seq(entries.first),
        _seq(entries.last),
    )


def _seq(named: NamedEntry | None) -> int | None:
    return None if named is None else named["seq"]


@dataclass
class _Writing:
    spec: BundleSpec
    rows: Rows
    entries: EntriesPass
    sign: Sign
    files: list[FileDigest] = field(default_factory=list)
    table_rows: dict[str, int] = field(default_factory=dict)

    def members(self) -> Iterator[Member]:
        """The members in the archive's order, each made when everything before it is written."""
        spec = self.spec
        yield Member("VERIFY.md", [guide(spec)])
        yield Member("verify.py", [VERIFIER.read_bytes()])
        yield Member(verify.ENTRIES, in_chunks(self.entries.lines()))
        yield Member(verify.CONTEXT, in_chunks(self.entries.context_lines()))
        for table, format in spec.table_files:
            name, listed = f"{table.name}.{format}", TablePass(self.rows, table)
            yield Member(name, in_chunks(listed.json_lines() if format == "jsonl" else listed.csv_lines()))
            self.table_rows[name] = listed.count
        yield Member(verify.VERIFICATION, [document_bytes(spec.verification)])
        yield Member(verify.PUBLIC_KEY, [spec.signing_key.public_key_pem.encode()])
        manifest = manifest_bytes(spec, self.entries, self.table_rows, tuple(self.files))
        yield Member(verify.MANIFEST, [manifest])
        yield Member(verify.SIGNATURE, [self.sign(sha256(manifest).digest())])
