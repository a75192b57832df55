"""RSA-2048 keys that sign evidence: made, wrapped, unwrapped and used in a process of their own, plain nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from precipiq_core.contracts.vault import VaultAccess
from precipiq_core.errors import InternalError, VaultRefused
from precipiq_core.secret_process import SecretProcess

KEY_BITS = 2048
DIGEST_BYTES = 32

_PUBLIC_EXPONENT = 65537


@dataclass(frozen=True, slots=True)
class SigningServant:
    """What runs in the signing process."""

    vault: VaultAccess

    def generate(self, context: Mapping[str, str]) -> tuple[bytes, bytes]:
        """A new key: its public half (SubjectPublicKeyInfo, DER), and its private half (PKCS#8, DER) wrapped."""
        key = generate_private_key(_PUBLIC_EXPONENT, KEY_BITS)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return public, self.vault.wrap(private, context)

    def sign(self, wrapped: bytes, context: Mapping[str, str], digest: bytes) -> bytes:
        """The signature, PKCS#1 v1.5, over that SHA-256 digest."""
        if len(digest) != DIGEST_BYTES:
            raise InternalError("what is signed is a SHA-256 digest")
        try:
            # Our own key, which the vault has authenticated: checking its numbers would take 36 ms.
            key = load_der_private_key(self.vault.unwrap(wrapped, context), None, unsafe_skip_rsa_key_validation=True)
        except (ValueError, UnsupportedAlgorithm):
            raise VaultRefused("a stored signing key is not a key") from None
        assert isinstance(key, RSAPrivateKey)
        return key.sign(digest, PKCS1v15(), Prehashed(SHA256()))


class Signer:
    """The signing process, as others see it. Raises ``VaultRefused`` and ``Unavailable``."""

    def __init__(self, vault: VaultAccess) -> None:
        self._process = SecretProcess(SigningServant(vault))

    async def generate(self, context: Mapping[str, str]) -> tuple[bytes, bytes]:
        """See :meth:`SigningServant.generate`."""
        public_key, wrapped = await self._process.call("generate", dict(context))
        return public_key, wrapped

    async def sign(self, wrapped: bytes, context: Mapping[str, str], digest: bytes) -> bytes:
        """See :meth:`SigningServant.sign`."""
        return bytes(await self._process.call("sign", wrapped, dict(context), digest))

    async def close(self) -> None:
        """End the process."""
        await self._process.close()


def public_key_pem(public_key: bytes) -> str:
    """A SubjectPublicKeyInfo in DER as PEM, as OpenSSL reads it."""
    return load_der_public_key(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the public key's DER form, 64 hex digits: what people compare."""
    return sha256(public_key).hexdigest()
