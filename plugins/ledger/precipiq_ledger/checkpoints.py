"""Signed checkpoints: "this chain had this seq and this hash", and the key that signs them.

The signature is Ed25519 over the canonical checkpoint; the key is derived from the deployment's master key, so no
private key reaches the disk. Where checkpoints are kept: ``checkpoint_files``; what they prove: ``anchors``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from precipiq_chain.canonical import canonical
from precipiq_contracts.chain import ENVIRONMENTS, Chain, Environment, Head
from precipiq_contracts.clock import format_timestamp, parse_timestamp
from precipiq_contracts.entry_store import ORG_ID_BYTES_MAX
from precipiq_contracts.vault import MasterKey

KEY_PURPOSE = "ledger checkpoint signing, Ed25519, version 1"

LINE_BYTES_MAX = 4096

_SEQ_END = 2**63
_TEXTS = {
    "hash": re.compile(r"[0-9a-f]{64}"),
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    "key_id": re.compile(r"[0-9a-f]{16}"),
    "signature": re.compile(r"[A-Za-z0-9+/]{0,100}={0,2}"),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement about a chain. ``time``: of signing; ``key_id``: 16 hex digits of the public key's hash."""

    org_id: str
    environment: str
    seq: int
    hash: str
    time: str
    key_id: str
    signature: str

    @property
    def chain(self) -> Chain:
        """The chain that it names."""
        return Chain(self.org_id, cast("Environment", self.environment))

    @property
    def signed_us(self) -> int:
        """``time`` in microseconds since the epoch. Raises ``ValueError`` when there is no such time."""
        return parse_timestamp(self.time)

    def signed_bytes(self) -> bytes:
        """The canonical JSON that the signature covers."""
        return canonical(
            {
                "v": 1,
                "org_id": self.org_id,
                "environment": self.environment,
                "seq": self.seq,
                "hash": self.hash,
                "time": self.time,
            }
        )

    def line(self) -> bytes:
        """The line of a checkpoint file, with its end."""
        return orjson.dumps(self) + b"\n"


class CheckpointSigner:
    """Signs heads, and checks signatures of this deployment's key."""

    def __init__(self, master_key: MasterKey) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(master_key.derive(KEY_PURPOSE))
        self._public_key = self._key.public_key()
        self.key_id = sha256(self._public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]

    @property
    def public_key_pem(self) -> str:
        """The public key for auditors: ``openssl pkeyutl -verify -rawin`` takes it."""
        return self._public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, chain: Chain, head: Head, now_us: int) -> Checkpoint:
        time = format_timestamp(now_us)
        unsigned = Checkpoint(chain.org_id, chain.environment, head.seq, head.hash, time, self.key_id, "")
        signature = self.sign_bytes(unsigned.signed_bytes())
        return Checkpoint(chain.org_id, chain.environment, head.seq, head.hash, time, self.key_id, signature)

    def sign_bytes(self, content: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self._key.sign(content)).decode()

    def holds(self, checkpoint: Checkpoint) -> bool | None:
        """Whether this deployment's signature is right; None when another key signed."""
        if checkpoint.key_id != self.key_id:
            return None
        return self.holds_bytes(checkpoint.signature, checkpoint.signed_bytes())

    def holds_bytes(self, signature: str, content: bytes) -> bool:
        """Whether this deployment's key made that signature of that content."""
        try:
            self._public_key.verify(base64.b64decode(signature), content)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_checkpoint(line: bytes) -> Checkpoint:
    """The checkpoint in a line of a checkpoint file, of whatever key and chain. Raises ``ValueError``."""
    try:
        fields = orjson.loads(line)
        checkpoint = Checkpoint(**fields)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise ValueError("a line of the checkpoint file is no checkpoint") from error
    if not _is_well_formed(fields, checkpoint):
        raise ValueError("a line of the checkpoint file has a value that no checkpoint has")
    return checkpoint


def _is_well_formed(fields: Mapping[str, object], checkpoint: Checkpoint) -> bool:
    texts = all(isinstance(fields[name], str) and form.fullmatch(str(fields[name])) for name, form in _TEXTS.items())
    return (
        texts
        and type(checkpoint.seq) is int
        and 0 < checkpoint.seq < _SEQ_END
        and isinstance(checkpoint.org_id, str)
        and len(checkpoint.org_id.encode()) <= ORG_ID_BYTES_MAX
        and checkpoint.environment in ENVIRONMENTS
    )
