"""The outcomes' own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import Conflict


class LinkConflict(Conflict):
    """The decision and the event are linked already, in another way."""

    code = "link_conflict"
    default_message = "this decision and this event have an active link with other content; delete it first"


class NotASuggestion(Conflict):
    """Only what the correlation worker proposed can be confirmed or rejected, and each link once."""

    code = "not_a_suggestion"
    default_message = "this link is no suggestion that waits for an answer"


class MultiCurrency(Conflict):
    """The sums of several currencies cannot be one number; ``details.currencies`` names them."""

    code = "multi_currency"
    default_message = "the range has money in several currencies: name one with ?currency="

    def __init__(self, currencies: list[str]) -> None:
        super().__init__(details={"currencies": currencies})
