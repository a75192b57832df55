"""Whether Stripe signed a delivery: strict parsing of the header here, the comparison by Stripe's library.

The library accepts a time far in the future and several times, and bytes that are no UTF-8 make it
raise another error. Its error carries body and header, so this module never passes that error on.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections.abc import Sequence

from precipiq_billing.errors import SignatureInvalid

TOLERANCE_US = 300 * 1_000_000
"""The largest difference between the time of signing and the server's time."""

_LIBRARY = "stripe"
_HEADER_CHARACTERS_MAX = 4096
_TIME = re.compile(r"t=([1-9][0-9]{0,11})", re.ASCII)
_SIGNATURE = re.compile(r"v[0-9]{1,2}=[0-9a-f]{1,512}", re.ASCII)


async def check_signature(body: bytes, header: str | None, secrets: Sequence[str], now_us: int) -> None:
    """As :func:`verify_signature`, first in a thread: importing Stripe's library takes a quarter of a second."""
    if _LIBRARY not in sys.modules:
        await asyncio.to_thread(importlib.import_module, _LIBRARY)
    verify_signature(body, header, secrets, now_us)


def verify_signature(body: bytes, header: str | None, secrets: Sequence[str], now_us: int) -> None:
    """Raises ``SignatureInvalid`` unless one of the secrets signed that body within the tolerance of ``now_us``."""
    if header is None or not _is_well_formed(header, now_us):
        raise SignatureInvalid
    from stripe import SignatureVerificationError, WebhookSignature

    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise SignatureInvalid from None
    is_signed = False
    for secret in secrets:  # all secrets: the time of the check must not tell which secret signed
        try:
            WebhookSignature.verify_header(text, header, secret, None)
            is_signed = True
        except SignatureVerificationError:
            continue
    if not is_signed:
        raise SignatureInvalid


def _is_well_formed(header: str, now_us: int) -> bool:
    """Whether the header has one time, within the tolerance, and signatures of any version beside it."""
    if len(header) > _HEADER_CHARACTERS_MAX:
        return False
    times: list[int] = []
    for item in header.split(","):
        if (match := _TIME.fullmatch(item)) is not None:
            times.append(int(match[1]))
        elif _SIGNATURE.fullmatch(item) is None:
            return False
    return len(times) == 1 and abs(now_us - times[0] * 1_000_000) <= TOLERANCE_US
