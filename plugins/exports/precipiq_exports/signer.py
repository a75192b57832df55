"""The client of the process that makes and uses the keys that sign evidence."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from precipiq_contracts.vault import VaultAccess
from precipiq_core.chain_columns import chain_of_context
from precipiq_exports.signing_servant import SigningServant
from precipiq_work.child_process import ChildProcess


class Signer:
    """The client of the signing process, in which organisations take turns. Raises ``VaultRefused``, ``Unavailable``.

    ``waiting_max``: calls that wait; see ``precipiq_work.fair_queue`` for the share of one chain.
    """

    def __init__(self, vault: VaultAccess, *, waiting_max: int = 1_000) -> None:
        self._process = ChildProcess(SigningServant(vault), waiting_max=waiting_max)

    async def generate(self, context: Mapping[str, str]) -> tuple[bytes, bytes]:
        """See :meth:`SigningServant.generate`."""
        public_key, wrapped = await self._process.call("generate", dict(context), chain=chain_of_context(context))
        return public_key, wrapped

    async def sign(self, wrapped: bytes, context: Mapping[str, str], digest: bytes) -> bytes:
        """See :meth:`SigningServant.sign`."""
        chain = chain_of_context(context)
        return bytes(await self._process.call("sign", wrapped, dict(context), digest, chain=chain))

    async def close(self) -> None:
        """End the process."""
        await self._process.close()


def public_key_pem(public_key: bytes) -> str:
    """A SubjectPublicKeyInfo in DER as PEM, as OpenSSL reads it."""
    return load_der_public_key(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the public key's DER form, 64 hex digits, for people to compare."""
    return sha256(public_key).hexdigest()
