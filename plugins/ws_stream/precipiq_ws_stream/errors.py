"""The stream's own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import Conflict


class CannotResume(Conflict):
    """The chain no longer has, or never had, the entry that the client saw last: reload."""

    code = "cannot_resume"
    default_message = "the chain has no such entry any more; reload"
