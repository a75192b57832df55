"""The kinds of entry that exports write, and their fields."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry, EntryKind

REQUESTED = "export_requested"
COMPLETED = "export_completed"
FAILED = "export_failed"
CANCELLED = "export_cancelled"
DOWNLOADED = "export_downloaded"
DELETED = "export_deleted"
KEY_CREATED = "signing_key_created"
KEY_ROTATED = "signing_key_rotated"

_KEY_FIELDS = ("key_id", "algorithm", "fingerprint")


async def present_export(chain: Chain, entries: Sequence[Entry]) -> list[bytes]:
    """An export as the REST interface showed it when it ended: the body of the entry holds it."""
    return [orjson.dumps(parse_statement(entry.statement).body.get("export")) for entry in entries]


KINDS = (
    EntryKind(REQUESTED, "evidence was asked for", ("export_id", "filters", "formats"), event="export.requested"),
    EntryKind(
        COMPLETED,
        "an evidence bundle was made and signed",
        ("export",),
        event="export.completed",
        present=present_export,
    ),
    EntryKind(FAILED, "an export was given up", ("export",), event="export.failed", present=present_export),
    EntryKind(CANCELLED, "an export was cancelled", ("export_id",), event="export.cancelled"),
    EntryKind(
        DOWNLOADED,
        "a bundle, or a part of it, was downloaded",
        ("export_id", "sha256", "download_id"),
        event="export.downloaded",
    ),
    EntryKind(DELETED, "a bundle was deleted before it expired", ("export_id", "sha256"), event="export.deleted"),
    EntryKind(KEY_CREATED, "a key that signs evidence was made", _KEY_FIELDS, event="signing_key.created"),
    EntryKind(
        KEY_ROTATED,
        "a key that signs evidence was replaced by another",
        (*_KEY_FIELDS, "replaced_key_id", "replaced_fingerprint"),
        event="signing_key.rotated",
    ),
)
