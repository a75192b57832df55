"""Pages of lists: how long, and where the next goes on.

A cursor is opaque: a number under the list's name, so that no list takes another's.
"""

from __future__ import annotations

import base64
import binascii

from precipiq_contracts.errors import ValidationFailed
from precipiq_core.http.settings import HttpSettings


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


def page_limit(asked: int | None, http: HttpSettings) -> int:
    """How many items a page has. Raises ``ValidationFailed`` when more are asked for than the deployment allows."""
    if asked is None:
        return http.list_limit_default
    if asked > http.list_limit_max:
        raise ValidationFailed(details={"limit": [f"must be <= {http.list_limit_max}"]})
    return asked
