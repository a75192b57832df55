"""Opaque cursors: where a page of a list goes on."""

from __future__ import annotations

import base64
import binascii

from precipiq_core.errors import ValidationFailed


def encode_cursor(before_seq: int) -> str:
    """A cursor for going on before that seq."""
    return base64.urlsafe_b64encode(b"seq:%d" % before_seq).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The seq in a cursor. Raises ``ValidationFailed`` when it is not one of ours."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name, _, number = text.partition(b":")
        if name == b"seq" and number.isdigit() and len(number) < 19:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise ValidationFailed(details={"cursor": ["is not a cursor of this list"]})
