"""Opaque cursors: where a page of a list goes on. A number under the list's name, so that no list takes another's."""

from __future__ import annotations

import base64
import binascii

from precipiq_core.errors import ValidationFailed


def encode_cursor(name: str, number: int) -> str:
    """A cursor of the list of that name; ``number`` is at least 0."""
    return base64.urlsafe_b64encode(b"%b:%d" % (name.encode(), number)).decode().rstrip("=")


def decode_cursor(name: str, cursor: str, *, below: int = 2**63) -> int:
    """The number in a cursor. Raises ``ValidationFailed`` when it is not one of that list."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found, _, digits = text.partition(b":")
        if found == name.encode() and digits.isdigit() and len(digits) < 40 and int(digits) < below:
            return int(digits)
    except (binascii.Error, ValueError):
        pass
    raise ValidationFailed(details={"cursor": ["is not a cursor of this list"]})
