"""Signing keys: strangers can check what they sign, and nothing but the signing process ever holds one in plain."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import InternalError, Unavailable, VaultRefused
from precipiq_contracts.secret_location import SecretLocation
from precipiq_core.system import SystemRandomness
from precipiq_exports.signer import Signer, fingerprint, public_key_pem
from precipiq_exports.signing_key_store import context_of
from precipiq_exports.signing_servant import SigningServant
from precipiq_testkit.process_memory import search_memory
from precipiq_vault_local.keys import LocalVaultAccess

pytestmark = [pytest.mark.anyio, pytest.mark.system]

DRIVER = Path(__file__).with_name("signing_driver.py")
CONTEXT = {"org_id": "org_1", "key_id": "sk_1"}
SIGNED = b"what is signed"
DIGEST = sha256(SIGNED).digest()


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> LocalVaultAccess:
    path = tmp_path_factory.mktemp("vault") / "vault.key"
    path.write_text("1f" * 32)
    return LocalVaultAccess(SecretLocation(file=path), (), SystemRandomness())


@pytest.fixture(scope="module")
async def signer(access: LocalVaultAccess) -> AsyncIterator[Signer]:
    started = Signer(access)
    yield started
    await started.close()


def openssl_says(folder: Path, public_key: bytes, signature: bytes, signed: bytes = SIGNED) -> str:
    (folder / "public.pem").write_text(public_key_pem(public_key))
    (folder / "signature").write_bytes(signature)
    (folder / "signed").write_bytes(signed)
    command = ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "signed"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30).stdout.strip()


async def test_openssl_verifies_what_is_signed_and_nothing_else(signer: Signer, tmp_path: Path) -> None:
    public_key, wrapped = await signer.generate(CONTEXT)
    signature = await signer.sign(wrapped, CONTEXT, DIGEST)

    assert len(signature) == 256
    assert openssl_says(tmp_path, public_key, signature) == "Verified OK"
    assert openssl_says(tmp_path, public_key, signature, SIGNED + b"!") == "Verification failure"
    other_key, _ = await signer.generate(CONTEXT)
    assert openssl_says(tmp_path, other_key, signature) == "Verification failure"


async def test_a_key_is_rsa_2048_and_its_fingerprint_is_that_of_its_der_form(signer: Signer, tmp_path: Path) -> None:
    public_key, wrapped = await signer.generate(CONTEXT)
    numbers = load_der_public_key(public_key).public_numbers()  # type: ignore[union-attr]
    (tmp_path / "public.pem").write_text(public_key_pem(public_key))
    command = ["openssl", "pkey", "-pubin", "-in", "public.pem", "-outform", "DER"]
    der = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=30).stdout

    assert (numbers.n.bit_length(), numbers.e) == (2048, 65537)
    assert fingerprint(public_key) == sha256(der).hexdigest()
    assert public_key not in wrapped


async def test_signatures_are_the_same_each_time_and_from_each_process(
    signer: Signer, access: LocalVaultAccess
) -> None:
    _, wrapped = await signer.generate(CONTEXT)
    once = await signer.sign(wrapped, CONTEXT, DIGEST)
    await signer.close()

    assert await signer.sign(wrapped, CONTEXT, DIGEST) == once
    assert pickle.loads(pickle.dumps(SigningServant(access))).sign(wrapped, CONTEXT, DIGEST) == once


@pytest.mark.parametrize("digest", [b"", SIGNED, DIGEST[:-1], DIGEST + b"\x00", DIGEST.hex().encode()])
async def test_only_a_digest_is_signed(digest: bytes, signer: Signer, access: LocalVaultAccess) -> None:
    with pytest.raises(InternalError, match="SHA-256 digest"):
        await signer.sign(access.wrap(b"never looked at", CONTEXT), CONTEXT, digest)


async def test_a_key_signs_for_its_own_context_alone_and_only_unaltered(
    signer: Signer, access: LocalVaultAccess
) -> None:
    _, wrapped = await signer.generate(CONTEXT)
    altered = wrapped[:-1] + bytes((wrapped[-1] ^ 1,))
    for refused, context in ((wrapped, {**CONTEXT, "org_id": "org_2"}), (altered, CONTEXT)):
        with pytest.raises(VaultRefused, match="altered, or is bound to something else"):
            await signer.sign(refused, context, DIGEST)
    with pytest.raises(VaultRefused, match="is not a key"):
        await signer.sign(access.wrap(b"no key", CONTEXT), CONTEXT, DIGEST)


async def test_without_a_master_key_no_key_is_made_and_none_signs(signer: Signer, access: LocalVaultAccess) -> None:
    _, wrapped = await signer.generate(CONTEXT)
    path = access.master_key.file
    assert path is not None
    master_key = path.read_text()
    path.unlink()
    for call in (signer.generate(CONTEXT), signer.sign(wrapped, CONTEXT, DIGEST)):
        with pytest.raises(Unavailable, match=r"vault\.key is missing"):
            await call
    path.write_text(master_key)

    assert len(await signer.sign(wrapped, CONTEXT, DIGEST)) == 256


def forms(name: str, number: int) -> dict[str, bytes]:
    """A number as libraries hold it in memory."""
    size = (number.bit_length() + 7) // 8
    return {f"{name}, big-endian": number.to_bytes(size), f"{name}, little-endian": number.to_bytes(size, "little")}


def secrets_of(key: RSAPrivateKey) -> dict[str, bytes]:
    numbers = key.private_numbers()
    parts = {"p": numbers.p, "q": numbers.q, "d": numbers.d, "dmp1": numbers.dmp1, "dmq1": numbers.dmq1}
    return {name: form for part, number in parts.items() for name, form in forms(part, number).items()}


class Driver:
    """The process that is looked at. ``answer``: what it told of its steps, ``memory``: what was found after each."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.answer: dict[str, bytes] = {}
        self.memory: list[set[str]] = []
        self._process = process

    def step(self) -> None:
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        self.answer |= {name: bytes.fromhex(value) for name, value in answer.items()}

    def look_for(self, needles: Mapping[str, bytes]) -> None:
        self.memory.append(search_memory(self._process.pid, needles))
        assert self._process.stdin is not None
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()

    def master_keys(self) -> dict[str, bytes]:
        """Those that were made so far."""
        texts = {path.stem: path.read_text().strip() for path in self.folder.glob("*.key")}
        keys = {f"{name} key": bytes.fromhex(text) for name, text in texts.items()}
        return keys | {f"{name} key, text": text.encode() for name, text in texts.items()}

    def private_key(self) -> dict[str, bytes]:
        access = LocalVaultAccess(SecretLocation(file=self.folder / "vault.key"), (), SystemRandomness())
        context = {"purpose": "export signing key", "org_id": "org_1", "environment": "test", "key_id": "sk_1"}
        private = access.unwrap(self.answer["wrapped"], context)
        key = load_der_private_key(private, None)
        assert isinstance(key, RSAPrivateKey)
        return {**secrets_of(key), "the end of PKCS#8": private[-64:]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_key_is_ever_in_the_memory_of_the_process_that_has_it_made_and_used(tmp_path: Path) -> None:
    planted = os.urandom(32)
    needles = {
        "planted": planted,
        "the head of PKCS#8": bytes.fromhex("300d06092a864886f70d01010105000482"),
        "PEM": b"PRIVATE KEY-----\nMII",
    }
    command = [sys.executable, str(DRIVER), str(tmp_path), planted.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        driver = Driver(tmp_path, process)
        for _ in range(2):
            driver.step()
            needles |= driver.master_keys()
            driver.look_for(needles)
        driver.step()
        needles |= driver.private_key()
        driver.look_for({**needles, "public key": driver.answer["public_key"]})
        driver.step()
        driver.look_for({**needles, "public key": driver.answer["public_key"]})

    assert process.returncode == 0
    assert driver.memory == [{"planted"}] * 2 + [{"planted", "public key"}] * 2
    assert openssl_says(tmp_path, driver.answer["public_key"], driver.answer["signature"]) == "Verified OK"
    for path in tmp_path.iterdir():
        assert {name for name, needle in needles.items() if needle in path.read_bytes()} <= {f"{path.stem} key, text"}


def test_a_private_half_is_bound_to_its_chain_and_to_its_key() -> None:
    chains = (Chain("org_1", "test"), Chain("org_1", "live"), Chain("org_2", "test"))
    contexts = [context_of(chain, key_id) for chain in chains for key_id in ("sk_1", "sk_2")]
    assert len({tuple(sorted(context.items())) for context in contexts}) == len(contexts)
