"""AWS KMS to the byte: its calls, the form of a wrapped secret, the meaning of its errors. Synchronous.

Wrapped: version (1 byte, 1), length of the KMS key's id (1 byte), that id (ASCII), the ciphertext that KMS gave. The
context is KMS's encryption context, so that KMS refuses another context and writes it to CloudTrail. Credentials
come from the sources of boto3: environment, shared files, role of the container or machine.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precipiq_contracts.errors import InternalError, Unavailable, VaultRefused
from precipiq_contracts.vault import SECRET_BYTES_MAX, Context

VERSION = 1
_HEAD_BYTES = 2
_REFUSED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


@dataclass(frozen=True, slots=True)
class KmsSettings:
    """See the settings of the same names in ``config``."""

    key_id: str
    previous_key_ids: tuple[str, ...]
    region: str
    endpoint_url: str | None
    timeout_s: float
    attempts_max: int
    calls_max: int

    def pin(self, wrapping_key_id: str) -> str:
        """The key that KMS may decrypt with: always one that the operator has named, whatever a secret names."""
        for key_id in self.previous_key_ids:
            if key_id_of(key_id) == wrapping_key_id:
                return key_id
        return self.key_id


class KmsAccess:
    """The vault inside the process that uses it, with a client of its own. See ``VaultAccess``.

    Several threads may use it. A pickled access holds the settings only.
    """

    def __init__(self, settings: KmsSettings) -> None:
        self._settings = settings
        self._making = threading.Lock()
        self._client: Any = None
        self.newest_arn: str | None = None
        """The key that KMS wrapped with last; None before it has wrapped anything."""

    def __reduce__(self) -> tuple[type[KmsAccess], tuple[KmsSettings]]:
        return KmsAccess, (self._settings,)

    def wrap(self, secret: bytes, context: Context) -> bytes:
        """See ``KeyVault.wrap``."""
        if not 1 <= len(secret) <= SECRET_BYTES_MAX:
            raise InternalError(f"a secret to wrap has 1 to {SECRET_BYTES_MAX} bytes")
        answer = self._ask(
            "encrypt", KeyId=self._settings.key_id, Plaintext=secret, EncryptionContext=_encryption_context(context)
        )
        return self._pack(answer)

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.unwrap``."""
        key_id, ciphertext = _parts(wrapped)
        answer = self._ask(
            "decrypt",
            KeyId=self._settings.pin(key_id),
            CiphertextBlob=ciphertext,
            EncryptionContext=_encryption_context(context),
        )
        _must_be(key_id, answer["KeyId"])
        return bytes(answer["Plaintext"])

    def rewrap(self, wrapped: bytes, context: Context) -> bytes:
        """See ``KeyVault.rewrap``; the plain secret does not leave KMS."""
        key_id, ciphertext = _parts(wrapped)
        answer = self._ask(
            "re_encrypt",
            SourceKeyId=self._settings.pin(key_id),
            CiphertextBlob=ciphertext,
            SourceEncryptionContext=_encryption_context(context),
            DestinationKeyId=self._settings.key_id,
            DestinationEncryptionContext=_encryption_context(context),
        )
        _must_be(key_id, answer["SourceKeyId"])
        return self._pack(answer)

    def is_current(self, wrapped: bytes) -> bool:
        """See ``KeyVault.is_current``."""
        try:
            return self.newest_arn is not None and _parts(wrapped)[0] == key_id_of(self.newest_arn)
        except VaultRefused:
            return False

    def _pack(self, answer: Mapping[str, Any]) -> bytes:
        self.newest_arn = answer["KeyId"]
        key_id = key_id_of(answer["KeyId"]).encode()
        return bytes((VERSION, len(key_id))) + key_id + bytes(answer["CiphertextBlob"])

    def _ask(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        settings = self._settings
        try:
            answer: Mapping[str, Any] = getattr(self._get_client(), operation)(**parameters)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown error")
            if code in _REFUSED:
                raise VaultRefused(
                    "AWS KMS cannot unwrap a stored secret: it was altered, is bound to something else, or is under a "
                    f"key that this deployment does not name ({code})"
                ) from None
            raise Unavailable(
                f"AWS KMS refused {error.operation_name} with the key {settings.key_id}: {code}"
            ) from None
        except (BotoCoreError, OSError) as error:
            # By its type: some texts hold the output of a program that provides credentials.
            where = settings.endpoint_url or settings.region
            raise Unavailable(f"AWS KMS ({where}) cannot be asked: {type(error).__name__}") from None
        return answer

    def _get_client(self) -> Any:
        """The client, made at its first use: importing boto3 and loading its model of KMS takes most of a second."""
        with self._making:
            if self._client is None:
                from boto3.session import Session
                from botocore.config import Config

                settings = self._settings
                config = Config(
                    connect_timeout=settings.timeout_s,
                    read_timeout=settings.timeout_s,
                    retries={"mode": "standard", "total_max_attempts": settings.attempts_max},
                    max_pool_connections=settings.calls_max,
                )
                self._client = Session().client(
                    "kms", region_name=settings.region, endpoint_url=settings.endpoint_url, config=config
                )
            return self._client


def key_id_of(arn: str) -> str:
    """The id in an ARN, or the id itself. A multi-region key has the same id in each region."""
    return arn.rpartition("/")[2]


def _encryption_context(context: Context) -> dict[str, str]:
    """KMS has no rule against empty names and values; a caller must not wrap a secret without a context."""
    if not context or not all((*context.keys(), *context.values())):
        raise InternalError("what a secret is bound to needs names and values, none of them empty")
    return dict(context)


def _parts(wrapped: bytes) -> tuple[str, bytes]:
    """The id of the wrapping key, as the secret names it, and the ciphertext."""
    end = _HEAD_BYTES + (wrapped[1] if len(wrapped) > 1 else 0)
    key_id = wrapped[_HEAD_BYTES:end]
    if len(wrapped) <= end or wrapped[0] != VERSION or not key_id.isascii():
        raise VaultRefused("a stored secret was not wrapped by this vault")
    return key_id.decode("ascii"), wrapped[end:]


def _must_be(key_id: str, arn: str) -> None:
    """Check the key id before the ciphertext: KMS examines the ciphertext alone."""
    if key_id_of(arn) != key_id:
        raise VaultRefused("a stored secret was altered: it is not under the KMS key that it names")
