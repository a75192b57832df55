"""A credential as it travels inside the server: readable only by asking for it, never by printing it."""

from __future__ import annotations

from hashlib import sha256
from typing import NoReturn


class Credential:
    """The key that a request presented. Its text form is redacted and it refuses to be pickled."""

    __slots__ = ("_digest", "_secret")

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        """The key's SHA-256, hashed once however many ask: what the key is known by where it is not shown."""
        if self._digest is None:
            self._digest = sha256(self._secret.encode("utf-8", "replace")).digest()
        return self._digest

    def reveal(self) -> str:
        """The key itself, for an authenticator."""
        return self._secret

    def __repr__(self) -> str:
        return "Credential(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is not pickled")
