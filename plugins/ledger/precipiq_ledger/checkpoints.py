"""Signed checkpoints: "this chain had this seq and this hash", kept in files outside the database.

One file per chain, one JSON line per checkpoint. The signature is Ed25519 over the canonical checkpoint; the key is
derived from the deployment's master key, so no private key reaches the disk.
"""

from __future__ import annotations

import base64
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from precipiq_chain.canonical import canonical
from precipiq_chain.verify import CHECKPOINT_FORGED, INCONSISTENT_WITH_CHECKPOINT, TRUNCATED
from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.clock import format_timestamp
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_contracts.ledger import ChainBreak, CheckpointComparison
from precipiq_contracts.secrets import MasterKey
from precipiq_core.key_files import keep_private, make_folder

KEY_PURPOSE = "ledger checkpoint signing, Ed25519, version 1"

_LINE_BYTES_MAX = 4096
_COMPARED_AT_ONCE = 1000
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


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


class CheckpointSigner:
    """Signs heads and checks signatures."""

    def __init__(self, master_key: MasterKey) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(master_key.derive(KEY_PURPOSE))
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = sha256(raw).hexdigest()[:16]

    @property
    def public_key_pem(self) -> str:
        """The public key for auditors: ``openssl pkeyutl -verify -rawin`` takes it."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, chain: Chain, head: Head, now_us: int) -> Checkpoint:
        time = format_timestamp(now_us)
        unsigned = Checkpoint(chain.org_id, chain.environment, head.seq, head.hash, time, self.key_id, "")
        signature = base64.b64encode(self._key.sign(unsigned.signed_bytes())).decode()
        return Checkpoint(chain.org_id, chain.environment, head.seq, head.hash, time, self.key_id, signature)

    def holds(self, checkpoint: Checkpoint) -> bool | None:
        """Whether this deployment's signature is right; None when another key signed."""
        if checkpoint.key_id != self.key_id:
            return None
        try:
            self._key.public_key().verify(base64.b64decode(checkpoint.signature), checkpoint.signed_bytes())
        except (InvalidSignature, ValueError):
            return False
        return True


class CheckpointFiles:
    """The folder of checkpoint files. Append-only: this class never rewrites or deletes a line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, checkpoint: Checkpoint) -> None:
        """Add a line, durable on return. Raises ``OSError``."""
        path = self._path(Chain(checkpoint.org_id, checkpoint.environment))  # type: ignore[arg-type]
        make_folder(path.parent)
        line = orjson.dumps(checkpoint) + b"\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def keep_private(self) -> None:
        """The folder and its files are for their owner alone, whoever made them."""
        for path in (self._folder, *self._folder.glob("*.jsonl")):
            keep_private(path)

    def chains(self) -> set[Chain]:
        """Those that have a file. Raises ``OSError``."""
        names = [path.name.rpartition(".jsonl")[0].rpartition(".") for path in self._folder.glob("*.jsonl")]
        return {
            Chain(org_id, environment)  # type: ignore[arg-type]
            for org_id, _, environment in names
            if environment in ("live", "test") and _FILE_NAME.fullmatch(org_id)
        }

    def newest(self, chain: Chain) -> Checkpoint | None:
        """The last written checkpoint of that chain. Raises ``ValueError`` as :meth:`read` does."""
        try:
            with self._path(chain).open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - 2 * _LINE_BYTES_MAX))
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return None
        return parse_checkpoint(lines[-1]) if lines else None

    def read(self, chain: Chain) -> Iterator[Checkpoint]:
        """The checkpoints of that chain, oldest first. A torn last line is skipped.

        Raises ``ValueError`` for a line that is no checkpoint.
        """
        if not _FILE_NAME.fullmatch(chain.org_id):
            return  # none can have been written
        try:
            stream = self._path(chain).open("rb")
        except FileNotFoundError:
            return
        with stream:
            while line := stream.readline(_LINE_BYTES_MAX):
                if not line.endswith(b"\n"):
                    if len(line) == _LINE_BYTES_MAX:
                        raise ValueError("a line of the checkpoint file is too long")
                    return
                yield parse_checkpoint(line)

    def _path(self, chain: Chain) -> Path:
        if not _FILE_NAME.fullmatch(chain.org_id):
            raise ValueError("an organisation id that cannot name a file")
        return self._folder / f"{chain.org_id}.{chain.environment}.jsonl"


def parse_checkpoint(line: bytes) -> Checkpoint:
    """The checkpoint in a line of a checkpoint file. Raises ``ValueError``."""
    try:
        return Checkpoint(**orjson.loads(line))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise ValueError("a line of the checkpoint file is no checkpoint") from error


def compare(
    files: CheckpointFiles,
    signer: CheckpointSigner,
    auditor: EntryAuditor,
    chain: Chain,
    last_seq: int,
    *,
    signatures_max: int,
) -> CheckpointComparison:
    """Compare the stored chain (verified up to ``last_seq``) with every checkpoint held for it."""
    newest: deque[Checkpoint] = deque(maxlen=signatures_max)
    compared, newest_seq, broken = 0, None, None
    try:
        for some in _batches(files.read(chain)):
            compared += len(some)
            newest.extend(some)
            newest_seq = max(newest_seq or 0, *(checkpoint.seq for checkpoint in some))
            if broken is None:
                broken = _compare_some(auditor, chain, last_seq, some)
    except ValueError as error:
        broken = broken or ChainBreak(max(last_seq, 1), CHECKPOINT_FORGED, str(error))
    checked = 0
    for checkpoint in newest:
        verdict = signer.holds(checkpoint)
        checked += verdict is not None
        if verdict is False:
            reason = f"the checkpoint of {checkpoint.time} at entry {checkpoint.seq} has a wrong signature"
            broken = broken or ChainBreak(checkpoint.seq, CHECKPOINT_FORGED, reason)
    return CheckpointComparison(compared, checked, newest_seq, broken)


def _batches(checkpoints: Iterator[Checkpoint]) -> Iterator[list[Checkpoint]]:
    some: list[Checkpoint] = []
    try:
        for checkpoint in checkpoints:
            some.append(checkpoint)
            if len(some) == _COMPARED_AT_ONCE:
                yield some
                some = []
    except ValueError:  # the lines before an unreadable one are compared nevertheless
        if some:
            yield some
        raise
    if some:
        yield some


def _compare_some(
    auditor: EntryAuditor, chain: Chain, last_seq: int, checkpoints: Sequence[Checkpoint]
) -> ChainBreak | None:
    hashes = auditor.hashes_at(chain, [checkpoint.seq for checkpoint in checkpoints])
    breaks = (
        _compare_one(last_seq, checkpoint, stored) for checkpoint, stored in zip(checkpoints, hashes, strict=True)
    )
    return next((broken for broken in breaks if broken is not None), None)


def _compare_one(last_seq: int, checkpoint: Checkpoint, stored: str | None) -> ChainBreak | None:
    seen = f"the checkpoint of {checkpoint.time}"
    if stored is None and checkpoint.seq > last_seq:
        reason = (
            f"{seen} saw entry {checkpoint.seq}, but the chain ends at {last_seq}: "
            "its tail was cut or an old copy restored"
        )
        return ChainBreak(last_seq + 1, TRUNCATED, reason)
    if stored != checkpoint.hash:
        reason = f"{seen} saw another entry {checkpoint.seq}: the chain was rewritten at or before it"
        return ChainBreak(checkpoint.seq, INCONSISTENT_WITH_CHECKPOINT, reason)
    return None
