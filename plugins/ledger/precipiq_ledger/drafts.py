"""Drafts compared with their bounds, and with the entries that their idempotency keys named. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from precipiq_chain.chain_format import salted_payload_hash, split_payload
from precipiq_chain.entry_record import parts_of
from precipiq_contracts.chain import Chain, Draft, Entry, PreparedDraft
from precipiq_contracts.entry_store import (
    ACTOR_BYTES_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX,
    KIND_BYTES_MAX,
    ORG_ID_BYTES_MAX,
    Appended,
)
from precipiq_contracts.errors import ValidationFailed


def refuse_too_long(chain: Chain, draft: Draft) -> None:
    """Refuse texts longer than ``precipiq_contracts.entry_store`` demands of every driver."""
    for name, text, bytes_max in (
        ("idempotency key", draft.idempotency_key or "", IDEMPOTENCY_KEY_BYTES_MAX),
        ("organisation id", chain.org_id, ORG_ID_BYTES_MAX),
        ("kind", draft.kind, KIND_BYTES_MAX),
        ("actor", draft.actor, ACTOR_BYTES_MAX),
    ):
        if len(text) * 4 > bytes_max and len(text.encode(errors="surrogatepass")) > bytes_max:
            raise ValidationFailed(f"the {name} is longer than {bytes_max} bytes")


def same_contents(prepared: Sequence[PreparedDraft], appended: Appended) -> bool:
    """Whether the drafts whose keys were known have the content of the entries that they named."""
    return all(
        created or same_content(new, entry)
        for new, entry, created in zip(prepared, appended.entries, appended.created, strict=True)
    )


def same_content(new: PreparedDraft, stored: Entry) -> bool:
    """Whether draft and stored entry have equal content. Once the payload is erased, the body decides."""
    parts = parts_of(stored.statement)
    if parts.kind.decode() != new.draft.kind or parts.body != new.body:
        return False
    if stored.payload is None or new.payload is None:
        return (new.payload is None) == (parts.payload_hash == b"null")
    _, salt = split_payload(stored.payload)
    payload, _ = split_payload(new.payload)
    return f'"{salted_payload_hash(payload, salt)}"'.encode() == parts.payload_hash
