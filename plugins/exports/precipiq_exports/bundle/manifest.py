"""The manifest: what a bundle holds, what it leaves out, and the digest of every file. Its bytes are what is signed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from precipiq_core.clock import format_timestamp
from precipiq_exports.bundle.archive import FileDigest
from precipiq_exports.bundle.passes import EntriesPass
from precipiq_exports.bundle.spec import BundleSpec

FORMAT = "precipiq-evidence"
FORMAT_VERSION = 1
ALGORITHM = "RSA-2048 PKCS#1 v1.5 SHA-256"


def manifest_bytes(
    spec: BundleSpec, entries: EntriesPass, table_rows: Mapping[str, int], files: Sequence[FileDigest]
) -> bytes:
    """The manifest, for people too: indented, sorted, ends with a newline."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "export_id": spec.export_id,
        "org_id": spec.chain.org_id,
        "environment": spec.chain.environment,
        "created_at": format_timestamp(spec.created_us),
        "requested_by": spec.actor,
        "filters": dict(spec.filters),
        "formats": list(spec.formats),
        "counts": {
            "entries": entries.counts.total(),
            "by_kind": dict(entries.counts),
            "redacted": entries.redacted,
            "context": entries.context_count,
            "tables": dict(table_rows),
        },
        "completeness": completeness(spec, entries.counts.total()),
        "chain": _chain(spec, entries),
        "files": [{"path": file.path, "sha256": file.sha256, "bytes": file.size_bytes} for file in files],
        "signing_key": {
            "algorithm": ALGORITHM,
            "key_id": spec.signing_key.key_id,
            "fingerprint": spec.signing_key.fingerprint,
        },
        "software": {"name": "precipiq", "version": spec.software_version},
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def completeness(spec: BundleSpec, included: int) -> dict[str, Any]:
    """What the bundle holds of the chain, and what it does not, as numbers and as a sentence."""
    in_range = spec.through_seq - spec.after_seq
    left_out = in_range - included
    return {
        "first_seq": spec.after_seq + 1,
        "last_seq": spec.through_seq,
        "entries_in_range": in_range,
        "entries_included": included,
        "entries_left_out": left_out,
        "is_complete": left_out == 0,
        "covers_from_genesis": spec.after_seq == 0,
        "statement": _sentence(spec, in_range, included, left_out),
    }


def _sentence(spec: BundleSpec, in_range: int, included: int, left_out: int) -> str:
    if in_range == 0:
        return "No entry of the chain is in the range that was asked for; this bundle holds none."
    where = f"entries {spec.after_seq + 1} to {spec.through_seq} of the chain"
    parts = [f"All {included} of {where} are in this bundle."]
    if spec.wanted:
        chosen = " and ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in spec.wanted.items())
        parts = [
            f"Of {where}, this bundle holds the {included} decisions with {chosen}; "
            f"{left_out} other entries are left out, so the links across them cannot be checked here."
        ]
    elif left_out:
        parts = [f"Of {where}, the store gave only {included}; {left_out} are missing."]
    if spec.after_seq:
        parts.append(f"The {spec.after_seq} entries before that range are not in it.")
    parts.append("It does not say whether there are entries after it.")
    return " ".join(parts)


def _chain(spec: BundleSpec, entries: EntriesPass) -> dict[str, Any]:
    first, last = entries.first, entries.last
    prev_hash = first.parts.prev_hash.decode() if first is not None and first.parts is not None else None
    return {
        "first": None if first is None else {"seq": first.seq, "prev_hash": prev_hash},
        "last": None if last is None else {"seq": last.seq, "hash": last.hash},
        "is_valid": bool(spec.verification.get("is_valid")),
        "has_gaps_by_filter": bool(spec.wanted),
    }
