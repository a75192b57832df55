"""Writes a bundle in one go: every file is made from the store as it is written, the manifest from what was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from precipiq_core.contracts.entry_store import EntryAuditor
from precipiq_exports.bundle.archive import FileDigest, Member, archive, in_chunks
from precipiq_exports.bundle.manifest import manifest_bytes
from precipiq_exports.bundle.passes import EntriesPass, Progress, Source, TablePass
from precipiq_exports.bundle.spec import BundleSpec, BundleSummary

VERIFIER = Path(__file__).parent / "verify.py"
INSTRUCTIONS = Path(__file__).parent / "VERIFY.md"

Sign = Callable[[bytes], bytes]


def write_bundle(
    auditor: EntryAuditor, spec: BundleSpec, out: BinaryIO, sign: Sign, progress: Progress = lambda _: None
) -> BundleSummary:
    """Write the ZIP to ``out``, which need not seek.

    ``sign``: the signature (256 bytes) of a SHA-256 digest. ``progress``: told how many more entries were read, in
    each of the passes (one for the raw entries, one for each list).
    """
    entries = EntriesPass(Source(auditor, spec, progress))
    whole, size_bytes = sha256(), 0
    files: list[FileDigest] = []
    with entries.context:
        members = _members(spec, entries, sign, files)
        for chunk in archive(members, spec.created_us, spec.compression_level, files.append):
            whole.update(chunk)
            size_bytes += len(chunk)
            out.write(chunk)
    return BundleSummary(entries.counts.total(), dict(entries.counts), size_bytes, whole.hexdigest())


def _members(spec: BundleSpec, entries: EntriesPass, sign: Sign, files: list[FileDigest]) -> Iterator[Member]:
    yield Member("VERIFY.md", [INSTRUCTIONS.read_bytes()])
    yield Member("verify.py", [VERIFIER.read_bytes()])
    yield Member("entries.jsonl", in_chunks(entries.lines()))
    yield Member("context.jsonl", in_chunks(entries.context_lines()))
    rows: dict[str, int] = {}
    for table, format in spec.table_files:
        listed = TablePass(entries.source, table)
        lines = listed.json_lines() if format == "jsonl" else listed.csv_lines()
        yield Member(f"{table.name}.{format}", in_chunks(lines))
        rows[f"{table.name}.{format}"] = listed.count
    verification = json.dumps(dict(spec.verification), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    yield Member("chain_verification.json", [verification])
    yield Member("public_key.pem", [spec.signing_key.public_key_pem.encode()])
    manifest = manifest_bytes(spec, entries, rows, tuple(files))
    yield Member("manifest.json", [manifest])
    yield Member("manifest.json.sig", [sign(sha256(manifest).digest())])
