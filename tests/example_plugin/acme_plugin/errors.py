"""This plugin's leaves of the error tree: a code of its own, the status of its parent."""

from precipiq_contracts.errors import ValidationFailed


class NoteTooLong(ValidationFailed):
    """The note is longer than the deployment allows."""

    code = "acme_note_too_long"
    default_message = "the note is too long"
