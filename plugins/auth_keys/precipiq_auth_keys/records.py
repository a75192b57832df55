"""Keys in the shapes of the REST contract. Pure."""

from __future__ import annotations

from precipiq_auth_keys.service import NewKey
from precipiq_auth_keys.store import KeyRecord
from precipiq_contracts.clock import format_moment, format_timestamp


def key_record(key: KeyRecord) -> dict[str, object]:
    """A key in the contract's shape."""
    return {
        "id": key.key_id,
        "prefix": key.prefix,
        "last_four": key.last_four,
        "environment": key.chain.environment,
        "scopes": list(key.scopes),
        "created_at": format_timestamp(key.created_us),
        "expires_at": format_moment(key.expires_us),
        "last_used_at": format_moment(key.last_used_us),
        "revoked_at": format_moment(key.revoked_us),
        "replaced_by": key.replaced_by,
    }


def new_key_record(new: NewKey) -> dict[str, object]:
    """A new key in the contract's shape, with its secret."""
    return {**key_record(new.record), "key": new.secret}
