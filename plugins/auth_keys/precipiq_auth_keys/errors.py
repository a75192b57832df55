"""This plugin's own leaves of the error tree."""

from __future__ import annotations

from precipiq_contracts.errors import Conflict


class KeyNotActive(Conflict):
    """A revoked, expired or already replaced key cannot be rotated."""

    code = "key_not_active"
    default_message = "this key is revoked, expired or already being replaced"
