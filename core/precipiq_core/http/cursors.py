"""Pages of lists: their length, and the cursor of the next page.

A cursor is opaque: a number under the list's name, so that no list accepts a cursor of another.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field

from precipiq_contracts.errors import ValidationFailed
from precipiq_core.http.settings import HttpSettings
from precipiq_core.http.validation import RequestModel

T = TypeVar("T")


class PageQuery(RequestModel):
    """Which page of a list."""

    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="items of a page")
    cursor: Annotated[str, Field(max_length=200)] | None = Field(None, description="next_cursor of the page before")


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
    """How many items a page has. Raises ``ValidationFailed`` when the client asks for more than is allowed."""
    if asked is None:
        return http.list_limit_default
    if asked > http.list_limit_max:
        raise ValidationFailed(details={"limit": [f"must be <= {http.list_limit_max}"]})
    return asked


def page_of(name: str, items: Sequence[T], query: PageQuery, http: HttpSettings) -> tuple[Sequence[T], str | None]:
    """The page of a list that is short enough to be read whole, newest first; without ``limit`` all of it.

    The cursor counts the items that are left, from the oldest: new ones do not move the pages. Gives the page and the
    cursor of the next one. Raises ``ValidationFailed``.
    """
    start = 0 if query.cursor is None else max(len(items) - decode_cursor(name, query.cursor), 0)
    count = len(items) if query.limit is None else page_limit(query.limit, http)
    left = len(items) - start - count
    return items[start : start + count], encode_cursor(name, left) if left > 0 else None
