"""The kinds of entry that tell of keys."""

from __future__ import annotations

from precipiq_contracts.chain import EntryKind

KEY_CREATED = "key_created"
KEY_ROTATED = "key_rotated"
KEY_REVOKED = "key_revoked"

_DESCRIBED = ("environment", "prefix", "scopes", "fingerprint", "expires_at")

EVENT_KINDS = (
    EntryKind(KEY_CREATED, "an API key was made", ("key_id", *_DESCRIBED), event="key.created"),
    EntryKind(
        KEY_ROTATED,
        "an API key was replaced by another",
        ("key_id", "new_key_id", "grace_seconds", *_DESCRIBED),
        event="key.rotated",
    ),
    EntryKind(KEY_REVOKED, "an API key was revoked", ("key_id",), event="key.revoked"),
)
