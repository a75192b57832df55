"""This plugin's own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import Conflict


class TooManyKeys(Conflict):
    """The organisation and environment have as many active keys as the deployment allows."""

    code = "too_many_keys"
    default_message = "there are as many active keys as may be: revoke one first"


class KeyNotActive(Conflict):
    """A revoked, expired or already replaced key cannot be rotated."""

    code = "key_not_active"
    default_message = "this key is revoked, expired or already being replaced"
