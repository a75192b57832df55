"""Reading Stripe's events: the envelope around an object, and fields with their shape checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from precipiq_billing.errors import NotAStripeEvent

NOT_HANDLED = "event type not handled"
TEXT_CHARACTERS_MAX = 255
SECONDS_MAX = 10**11 - 1

Fields: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A snapshot event. ``cause``: its type."""

    event_id: str
    cause: str
    event: Fields

    @property
    def found(self) -> Fields:
        """The event's object. Raises ``NotAStripeEvent`` when there is none."""
        data = self.event.get("data")
        found = data.get("object") if isinstance(data, dict) else None
        if not isinstance(found, dict):
            raise NotAStripeEvent("data.object is missing")
        return found

    @property
    def previous(self) -> Fields | None:
        """What the object's members were that this event changed; None when it does not say."""
        data = self.event.get("data")
        previous = data.get("previous_attributes") if isinstance(data, dict) else None
        return previous if isinstance(previous, dict) and previous else None

    @property
    def created_s(self) -> int:
        """Time of the event, seconds since the epoch. Raises ``NotAStripeEvent``."""
        return whole(self.event, "created", SECONDS_MAX)


def envelope_of(event: object) -> Envelope | None:
    """The event's envelope, None for a thin event (``v2.core.event``), which has no object.

    Raises ``NotAStripeEvent`` for anything else.
    """
    if not isinstance(event, dict):
        raise NotAStripeEvent
    if event.get("object") == "v2.core.event":
        return None
    if event.get("object") != "event":
        raise NotAStripeEvent
    return Envelope(text(event, "id"), text(event, "type"), event)


def text(source: Fields, name: str, most: int = TEXT_CHARACTERS_MAX, least: int = 1) -> str:
    """The text of that field. Raises ``NotAStripeEvent`` when it is no text of so many characters."""
    value = source.get(name)
    if not isinstance(value, str) or not least <= len(value) <= most or "\x00" in value:
        raise NotAStripeEvent(f"{name[:100]} is not a text of {least} to {most} characters")
    return value


def reference(source: Fields, name: str) -> str | None:
    """An id, or the id of an object that stands in its place (expanded); None when there is none."""
    value = source.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    return None if value is None else text({name: value}, name)


def whole(source: Fields, name: str, most: int, least: int = 0) -> int:
    """Raises ``NotAStripeEvent`` when it is no whole number from ``least`` to ``most``."""
    value = source.get(name)
    if type(value) is not int or not least <= value <= most:
        raise NotAStripeEvent(f"{name} is not a whole number from {least} to {most}")
    return value
