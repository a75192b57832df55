"""A credential inside the server: only ``reveal`` gives the key; printing or pickling it does not."""

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
        """The key's SHA-256, computed once: the id of the key wherever the key itself may not appear."""
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
