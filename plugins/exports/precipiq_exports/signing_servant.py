"""The program of the signing process: RSA-2048 keys, plain nowhere else. Imports only what that process needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
)

from precipiq_contracts.errors import InternalError, VaultRefused
from precipiq_contracts.vault import VaultAccess

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
