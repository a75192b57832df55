"""The ledger's own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import Conflict, Forbidden, Unavailable, ValidationFailed


class ClockUntrusted(Unavailable):
    """This server's clock, or the clock that sealed the chain's newest entry, is wrong; nothing was stored."""

    code = "clock_untrusted"
    default_message = "a clock is wrong"


class EntryTooLarge(ValidationFailed):
    """One entry is larger than the deployment allows; nothing was stored."""

    code = "payload_too_large"
    default_message = "an entry is too large"


class QuotaExceeded(Forbidden):
    """The environment's quota of stored bytes is used up; nothing was stored."""

    code = "quota_exceeded"
    default_message = "the quota of stored bytes is used up"


class UnknownKind(ValidationFailed):
    """No enabled plugin registered that kind of entry."""

    default_message = "unknown kind of entry"


class AlreadyRedacted(Conflict):
    """The entry's payload was erased before, for a reason that is on record."""

    code = "already_redacted"
    default_message = "the payload of this entry is already erased"


class NothingToRedact(Conflict):
    """The entry never had a payload."""

    code = "nothing_to_redact"
    default_message = "this entry has no payload"
