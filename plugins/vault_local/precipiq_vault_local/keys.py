"""Master keys and wrapped secrets, to the byte. Runs in processes that may hold the keys, never in the web process.

Wrapped: version (1 byte, 1), key id (8), nonce (12), AES-256-GCM ciphertext and tag. Associated data: version, key id
and the canonical JSON of the context, so that a wrapped secret is useless in another context.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from precipiq_chain.canonical import canonical
from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable, VaultRefused
from precipiq_contracts.secret_location import SecretLocation
from precipiq_contracts.vault import SECRET_BYTES_MAX, Context
from precipiq_core.key_files import create_key_file

VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
HEAD_BYTES = 1 + KEY_ID_BYTES

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[0-9a-zA-Z+/]{43}=")
_CHECKED = b"checked"
_CHECK_CONTEXT = {"purpose": "check"}


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The keys, for the operator. ``problems``: of previous keys that cannot be used."""

    newest_key_id: bytes
    previous_key_ids: tuple[bytes, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalVaultAccess:
    """The vault inside the process that uses it; a pickled one holds references only. See ``VaultAccess``.

    Each call reads the keys anew: a changed file needs no restart.
    """

    master_key: SecretLocation
    previous_master_keys: tuple[SecretLocation, ...]
    randomness: Randomness

    def wrap(self, secret: bytes, context: Context) -> bytes:
        """See ``KeyVault.wrap``."""
        if not 1 <= len(secret) <= SECRET_BYTES_MAX:
            raise InternalError(f"a secret to wrap has 1 to {SECRET_BYTES_MAX} bytes")
        key = read_master_key(self.master_key)
        head = bytes((VERSION,)) + key_id_of(key)
        nonce = self.randomness.bytes(NONCE_BYTES)
        return head + nonce + AESGCM(key).encrypt(nonce, secret, _associated_data(head, context))

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.unwrap``."""
        wanted = key_id_in(wrapped)
        for reference in (self.master_key, *self.previous_master_keys):
            key = read_master_key(reference)
            if key_id_of(key) == wanted:
                return _decrypt(key, wrapped, context)
        raise VaultRefused(
            f"a secret is wrapped under the master key {wanted.hex()}, which this deployment does not have"
        )

    def rewrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.rewrap``."""
        return self.wrap(self.unwrap(wrapped, context), context)

    def check(self) -> KeyReport:
        """Wrap and unwrap something, and look at the previous keys. Raises as :meth:`wrap` and :meth:`unwrap` do."""
        wrapped = self.wrap(_CHECKED, _CHECK_CONTEXT)
        if self.unwrap(wrapped, _CHECK_CONTEXT) != _CHECKED:
            raise InternalError("the vault does not give back what it took")
        previous, problems = [], []
        for reference in self.previous_master_keys:
            try:
                previous.append(key_id_of(read_master_key(reference)))
            except Unavailable as error:
                problems.append(error.message)
        return KeyReport(key_id_in(wrapped), tuple(previous), tuple(problems))

    def create(self, is_anything_wrapped: bool) -> bool:
        """Make an absent key file; gives whether this call made it.

        Raises ``Unavailable`` when secrets are stored already: a new key could not unwrap them.
        """
        path = self.master_key.file
        if path is None or path.exists():
            return False
        if is_anything_wrapped:
            raise Unavailable(
                f"there is no file {path}, and secrets are stored: restore the master key from its backup"
            )
        return create_key_file(path, self.randomness, where="plugins.vault_local.master_key")


def read_master_key(reference: SecretLocation) -> bytes:
    """The 32 bytes. Raises ``Unavailable`` when the reference holds no such key."""
    try:
        text = reference.reveal()
    except DeploymentError as error:
        raise Unavailable(f"a master key of the vault is not there: {'; '.join(error.problems)}") from error
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        return base64.b64decode(text)
    where = f"variable {reference.env}" if reference.file is None else f"file {reference.file}"
    raise Unavailable(f"the master key in {where} is neither 64 hex digits nor base64 of {KEY_BYTES} bytes")


def key_id_of(key: bytes) -> bytes:
    """The id of a master key, which reveals nothing about the key."""
    return sha256(b"precipiq vault_local master key id\0" + key).digest()[:KEY_ID_BYTES]


def key_id_in(wrapped: bytes) -> bytes:
    """The id of the master key that wrapped it. Raises ``VaultRefused`` when this vault did not wrap it."""
    if len(wrapped) <= HEAD_BYTES + NONCE_BYTES or wrapped[0] != VERSION:
        raise VaultRefused("a stored secret was not wrapped by this vault")
    return wrapped[1:HEAD_BYTES]


def _decrypt(key: bytes, wrapped: bytes, context: Context) -> bytes:
    head, nonce = wrapped[:HEAD_BYTES], wrapped[HEAD_BYTES : HEAD_BYTES + NONCE_BYTES]
    try:
        return AESGCM(key).decrypt(nonce, wrapped[HEAD_BYTES + NONCE_BYTES :], _associated_data(head, context))
    except InvalidTag:
        raise VaultRefused("a stored secret was altered, or is bound to something else") from None


def _associated_data(head: bytes, context: Context) -> bytes:
    return head + canonical(dict(context))
