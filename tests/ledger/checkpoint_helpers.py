"""Keys, chains and files of checkpoints, for tests of what a forger or a crash does to them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from precipiq_contracts.chain import Chain, Head
from precipiq_ledger.anchors import AnchorAge, Compared, Evidence, compare
from precipiq_ledger.checkpoint_files import CheckpointFiles, file_name
from precipiq_ledger.checkpoint_manifest import CheckpointManifest
from precipiq_ledger.checkpoints import Checkpoint, CheckpointSigner
from precipiq_testkit.clock import START_US, ManualClock

CHAIN, OTHER = Chain("org_alpha", "test"), Chain("org_beta", "test")


@dataclass
class Key:
    """A master key for tests."""

    name: str = "ours"

    def derive(self, purpose: str) -> bytes:
        return sha256(f"{self.name} {purpose}".encode()).digest()


OURS, THEIRS = CheckpointSigner(Key()), CheckpointSigner(Key("theirs"))


def hash_of(seq: int) -> str:
    """The hash of that entry in the chains of these tests."""
    return sha256(str(seq).encode()).hexdigest()


def sign(seq: int, signer: CheckpointSigner = OURS, chain: Chain = CHAIN, at_us: int = START_US) -> Checkpoint:
    """What the server would sign of that entry."""
    return signer.sign(chain, Head(seq, hash_of(seq), 0), at_us)


def path_of(files: CheckpointFiles, chain: Chain = CHAIN) -> Path:
    return files.folder / file_name(chain)


def manifest_of(files: CheckpointFiles, clock: ManualClock, signer: CheckpointSigner = OURS) -> CheckpointManifest:
    """As another process has it."""
    return CheckpointManifest(files, signer, clock)


@dataclass
class Stored:
    """An auditor of a chain with so many entries, a minute apart; ``rewritten_from``: other hashes from there on."""

    last_seq: int
    rewritten_from: int | None = None

    def hashes_at(self, chain: Chain, seqs: list[int]) -> list[str | None]:
        return [self._hash_at(seq) for seq in seqs]

    def _hash_at(self, seq: int) -> str | None:
        if seq > self.last_seq:
            return None
        return hash_of(-seq) if self.rewritten_from is not None and seq >= self.rewritten_from else hash_of(seq)


def compared(
    files: CheckpointFiles,
    stored: Stored,
    manifest: CheckpointManifest | None = None,
    age: AnchorAge | None = None,
    signatures_max: int = 100,
    chain: Chain = CHAIN,
) -> Compared:
    """What the checkpoints say of that chain."""
    evidence = Evidence(files, OURS, signatures_max, manifest, age)
    return compare(evidence, stored, chain, stored.last_seq)  # type: ignore[arg-type]


def codes(found: Compared) -> list[tuple[str, int]]:
    """The findings, the gravest first."""
    return [(finding.code, finding.seq) for finding in found.comparison.findings]
