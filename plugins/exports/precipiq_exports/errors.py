"""The exports' own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import Conflict, Gone, RateLimited


class ExportNotReady(Conflict):
    """There is no bundle to download: the export waits, runs, failed or was cancelled."""

    code = "export_not_ready"
    default_message = "the export has no bundle to download"


class UnauthenticEntry(Conflict):
    """The range has an entry that no server of this deployment made: nothing is signed about it."""

    code = "unauthentic_entry"
    default_message = "an entry of the range was made by no server of this deployment"


class KeyUnanchored(Conflict):
    """The chain's signing key is not what the chain announces: nothing is signed with it, and no other takes its place.

    ``precipiq signing-keys rotate`` makes a new one where the key's row is gone; an altered row goes first.
    """

    code = "key_unanchored"
    default_message = "the stored signing key is not the one that the chain announces"


class ExportExpired(Gone):
    """The bundle was deleted, by its expiry or by a client."""

    code = "export_expired"
    default_message = "the bundle of this export was deleted"


class TooManyExports(RateLimited):
    """As many exports of the organisation and environment wait or run as the deployment allows."""

    code = "too_many_exports"
    default_message = "too many exports of this organisation wait or run; try again when one has ended"
