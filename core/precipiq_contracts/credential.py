"""A credential as it travels inside the server: readable only by asking for it, never by printing it."""

from __future__ import annotations

from typing import NoReturn


class Credential:
    """The key that a request presented. Its text form is redacted and it refuses to be pickled."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def reveal(self) -> str:
        """The key itself, for an authenticator."""
        return self._secret

    def __repr__(self) -> str:
        return "Credential(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is not pickled")
