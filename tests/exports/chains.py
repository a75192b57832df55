"""Chains in memory and bundles of them: the same writer, verifier and OpenSSL as in earnest, without a server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from precipiq_chain.chain_format import head_of, prepare, seal_entries
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_exports.bundle import verify
from precipiq_exports.bundle.spec import BundleSpec, BundleSummary, SigningKeyInfo, Table
from precipiq_exports.bundle.writer import VERIFIER, write_bundle
from precipiq_exports.signer import public_key_pem
from precipiq_testkit.clock import SeededRandomness
from precipiq_testkit.memory import MemoryAuditor

CHAIN = Chain("org_alpha", "test")
CREATED_US = 1_790_000_000_000_000
DECISIONS = Table(
    "decisions",
    ("decision",),
    ("agent_id", "action_type", "confidence", "human_in_loop", "external_id"),
    ("inputs", "outputs", "alternatives", "metadata"),
)
NO_FILTERS: Mapping[str, str | int | None] = dict.fromkeys(
    ("start", "end", "agent_id", "action_type", "after_seq", "through_seq")
)


@cache
def key(name: str = "first") -> RSAPrivateKey:
    """A signing key of that name, made once."""
    return generate_private_key(65537, 2048)


def public_der(private: RSAPrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(private: RSAPrivateKey, digest: bytes) -> bytes:
    return private.sign(digest, PKCS1v15(), Prehashed(SHA256()))


class MadeChain:
    """A chain that grows entry by entry."""

    def __init__(self, seed: int = 1) -> None:
        self.entries: list[Entry] = []
        self._randomness = SeededRandomness(seed)

    @property
    def auditor(self) -> MemoryAuditor:
        return MemoryAuditor({CHAIN: list(self.entries)})

    def add(self, kind: str, body: dict[str, Any], payload: dict[str, Any] | None = None) -> Entry:
        head = head_of(self.entries[-1]) if self.entries else None
        draft = prepare(Draft(kind, "key_1", body, payload), self._randomness.bytes(16))
        now_us = CREATED_US + len(self.entries)
        [entry] = seal_entries(CHAIN, head, [draft], now_us=now_us, randomness=self._randomness.bytes(10))
        self.entries.append(entry)
        return entry

    def decide(self, number: int = 0, **changes: Any) -> Entry:
        fields: dict[str, Any] = {
            "agent_id": f"agent-{number % 3}",
            "action_type": "discount_offer",
            "confidence": 0.82,
            "human_in_loop": False,
            "external_id": None,
            "inputs": {"customer": number, "note": "Zoë 🚀"},
            "outputs": {"discount_pct": 15},
            "alternatives": None,
            "metadata": None,
            **changes,
        }
        body = {name: fields[name] for name in DECISIONS.body_fields}
        return self.add("decision", body, {name: fields[name] for name in DECISIONS.payload_fields})

    def announce(self, private: RSAPrivateKey) -> Entry:
        fingerprint = sha256(public_der(private)).hexdigest()
        return self.add("signing_key_created", {"key_id": "sk_1", "algorithm": "RSA", "fingerprint": fingerprint})

    def erase(self, seq: int) -> Entry:
        target = self.entries[seq - 1]
        self.entries[seq - 1] = replace(target, payload=None)
        body = {"target_seq": seq, "target_id": "x", "target_hash": target.hash, "reason": "asked to"}
        return self.add("redaction", body)


def spec_of(chain: MadeChain, private: RSAPrivateKey, **changes: Any) -> BundleSpec:
    """A bundle of the whole chain, signed by that key, unless changed."""
    der = public_der(private)
    fingerprint = sha256(der).hexdigest()
    announced = [entry.seq for entry in chain.entries if fingerprint.encode() in entry.statement]
    spec = BundleSpec(
        "exp_1",
        CHAIN,
        CREATED_US,
        "key_1",
        NO_FILTERS,
        0,
        len(chain.entries),
        ("jsonl", "csv"),
        (DECISIONS,),
        verification_of(1, len(chain.entries)),
        SigningKeyInfo("sk_1", public_key_pem(der), fingerprint, announced[0] if announced else None),
        "0.1.0",
        batch_entries=7,
    )
    spec = replace(spec, **changes)
    if "verification" not in changes:
        spec = replace(spec, verification=verification_of(spec.after_seq + 1, spec.through_seq))
    return spec


def verification_of(first_seq: int, last_seq: int) -> dict[str, Any]:
    """What the server finds in a range that holds."""
    found = {"first_seq": first_seq, "last_seq": last_seq, "entries_checked": last_seq - first_seq + 1}
    return {"is_valid": True, "first_break": None, **found}


def bundle_of(chain: MadeChain, private: RSAPrivateKey | None = None, **changes: Any) -> bytes:
    return made(chain, private, **changes)[0]


def made(chain: MadeChain, private: RSAPrivateKey | None = None, **changes: Any) -> tuple[bytes, BundleSummary]:
    private = private or key()
    out = io.BytesIO()
    spec = spec_of(chain, private, **changes)
    summary = write_bundle(chain.auditor, spec, out, lambda digest: sign(private, digest))
    return out.getvalue(), summary


def unpacked(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def resigned(files: Mapping[str, bytes], private: RSAPrivateKey) -> dict[str, bytes]:
    """The same files with every digest made right and the manifest signed by that key: what an insider can do."""
    changed = dict(files)
    manifest = json.loads(files["manifest.json"])
    for item in manifest["files"]:
        content = changed[item["path"]]
        item |= {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    changed["manifest.json"] = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    changed["manifest.json.sig"] = sign(private, sha256(changed["manifest.json"]).digest())
    return changed


def report_on(bundle: bytes | Mapping[str, bytes], folder: Path, fingerprint: str | None = None) -> verify.Report:
    """What verify.py finds, in this process."""
    path = folder / "bundle.zip"
    path.write_bytes(bundle if isinstance(bundle, bytes) else packed(bundle))
    return verify.check(str(path), fingerprint)


def problems(bundle: bytes | Mapping[str, bytes], folder: Path, fingerprint: str | None = None) -> list[str]:
    return [f"{where}: {what}" for where, what in report_on(bundle, folder, fingerprint).problems]


def run_verifier(bundle: bytes, folder: Path, *arguments: str, python: str = sys.executable) -> tuple[int, str]:
    """verify.py alone, as a stranger runs it."""
    path = folder / "bundle.zip"
    path.write_bytes(bundle)
    command = [python, "-I", "-S", str(VERIFIER), str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def unpack_to(files: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def openssl_says(folder: Path) -> str:
    command = "openssl dgst -sha256 -verify public_key.pem -signature manifest.json.sig manifest.json"
    return subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, timeout=30).stdout.strip()


def lines(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def longer(chain: MadeChain, count: int, agents: Sequence[str] = ("a", "b")) -> MadeChain:
    for number in range(count):
        chain.decide(number, agent_id=agents[number % len(agents)])
    return chain
