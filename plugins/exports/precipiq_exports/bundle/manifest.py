"""The manifest: a bundle's content, its omissions, and the digest of every file. The signature covers its bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from precipiq_contracts.clock import format_timestamp
from precipiq_exports.bundle.archive import FileDigest
from precipiq_exports.bundle.entries import EntriesPass
from precipiq_exports.bundle.spec import BundleSpec
from precipiq_exports.bundle.verify import ALGORITHM, FORMAT, FORMAT_VERSION, completeness, wanted_of


def manifest_bytes(
    spec: BundleSpec, entries: EntriesPass, table_rows: Mapping[str, int], files: Sequence[FileDigest]
) -> bytes:
    """The manifest, for people too."""
    filters = dict(spec.filters)
    return document_bytes(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "export_id": spec.export_id,
            "org_id": spec.chain.org_id,
            "environment": spec.chain.environment,
            "created_at": format_timestamp(spec.created_us),
            "requested_by": spec.actor,
            "filters": filters,
            "formats": list(spec.formats),
            "tables": {table.name: _without_name(asdict(table)) for table in spec.tables},
            "counts": {
                "entries": entries.count,
                "by_kind": dict(entries.by_kind),
                "damaged": entries.damaged,
                "redacted": entries.redacted,
                "context": entries.context.count,
                "tables": dict(table_rows),
            },
            "completeness": completeness(filters, spec.after_seq + 1, spec.through_seq, entries.count),
            "chain": {
                "first": entries.first,
                "last": entries.last,
                "is_valid": spec.verification["is_valid"],
                "verdict": spec.verification.get("verdict"),
                "gaps_explained": bool(wanted_of(filters)) or not entries.gaps,
            },
            "files": [{"path": file.path, "sha256": file.sha256, "bytes": file.size_bytes} for file in files],
            "signing_key": {
                "algorithm": ALGORITHM,
                "key_id": spec.signing_key.key_id,
                "fingerprint": spec.signing_key.fingerprint,
            },
            "software": {"name": "precipiq", "version": spec.software_version},
        }
    )


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """JSON as it is signed: indented, sorted, ASCII, ends with a newline."""
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _without_name(table: dict[str, Any]) -> dict[str, Any]:
    return {part: value for part, value in table.items() if part != "name"}
