"""Why a stream ends: the close codes of the contract. Their last digits mirror HTTP's statuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ending:
    """``code`` 0: the client left by itself. ``reason``: for the client, at most 123 bytes."""

    code: int
    reason: str


LOST = Ending(0, "the connection was lost")
BINARY = Ending(1003, "this stream takes no binary messages")
FORBIDDEN = Ending(4403, "the api key lacks the scope read")
TOO_MANY_MESSAGES = Ending(4429, "too many messages from the client")
INTERNAL = Ending(4500, "internal error")
DRAINING = Ending(4503, "the server is stopping; reconnect")
KEY_REVOKED = Ending(4510, "the api key was revoked")
KEY_EXPIRED = Ending(4511, "the api key expired")


def departure(code: int) -> Ending:
    """The client closed with that code."""
    return Ending(0, f"client: {code}")


def cannot_resume(reason: str) -> Ending:
    return Ending(4409, reason)


def too_slow(seq: int) -> Ending:
    """``seq``: of the last sent entry, after which the client goes on."""
    return Ending(4508, f"resume={seq}")
