"""The local vault: what it wraps is bound to its context and key, keys can be changed, and it fails closed."""

from __future__ import annotations

import base64
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from precipiq_chain.canonical import canonical
from precipiq_contracts.errors import InternalError, Unavailable, VaultRefused
from precipiq_contracts.secret_location import SecretLocation
from precipiq_contracts.vault import SECRET_BYTES_MAX
from precipiq_core.system import SystemRandomness
from precipiq_vault_local.keys import LocalVaultAccess, key_id_of
from precipiq_vault_local.service import LocalVault

pytestmark = [pytest.mark.anyio, pytest.mark.system]

CONTEXT = {"org_id": "org_1", "key_id": "sk_1"}
KEYS = [bytes([number]) * 32 for number in range(1, 4)]


def reference(path: Path, key: bytes | None = None) -> SecretLocation:
    if key is not None:
        path.write_text(key.hex() + "\n")
    return SecretLocation(file=path)


def access_to(newest: SecretLocation, *previous: SecretLocation) -> LocalVaultAccess:
    return LocalVaultAccess(newest, previous, SystemRandomness())


OpenVault = Callable[..., LocalVault]


@pytest.fixture
async def open_vault() -> AsyncIterator[OpenVault]:
    """``open_vault(newest, *previous)``: a vault that is closed in the end."""
    opened: list[LocalVault] = []

    def open_(*references: SecretLocation) -> LocalVault:
        opened.append(LocalVault(access_to(*references)))
        return opened[-1]

    yield open_
    for vault in opened:
        await vault.close()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> SecretLocation:
    return reference(tmp_path_factory.mktemp("vault") / "vault.key", KEYS[0])


@pytest.fixture(scope="module")
async def vault(key_file: SecretLocation) -> AsyncIterator[LocalVault]:
    """One for all tests: each vault has a process of its own."""
    shared = LocalVault(access_to(key_file))
    await shared.check()
    yield shared
    await shared.close()


async def test_what_is_wrapped_comes_back_and_is_another_each_time(vault: LocalVault) -> None:
    for secret in (b"\x00", b"secret" * 100, bytes(SECRET_BYTES_MAX)):
        once, again = await vault.wrap(secret, CONTEXT), await vault.wrap(secret, CONTEXT)
        assert once != again
        assert secret not in once or secret == b"\x00"
        assert await vault.unwrap(once, CONTEXT) == await vault.unwrap(again, CONTEXT) == secret


async def test_the_wrapped_form_is_what_its_description_says(vault: LocalVault) -> None:
    wrapped = await vault.wrap(b"secret", CONTEXT)
    head, nonce, ciphertext = wrapped[:9], wrapped[9:21], wrapped[21:]

    assert head == b"\x01" + key_id_of(KEYS[0])
    associated = head + canonical({"key_id": "sk_1", "org_id": "org_1"})
    assert AESGCM(KEYS[0]).decrypt(nonce, ciphertext, associated) == b"secret"


@pytest.mark.parametrize("size", [0, SECRET_BYTES_MAX + 1])
async def test_nothing_and_too_much_cannot_be_wrapped(size: int, vault: LocalVault) -> None:
    with pytest.raises(InternalError, match="1 to 4096 bytes"):
        await vault.wrap(bytes(size), CONTEXT)


@pytest.mark.parametrize(
    "context", [{}, {"org_id": "org_1"}, {**CONTEXT, "org_id": "org_2"}, {**CONTEXT, "more": ""}, {"a": "b"}]
)
async def test_it_is_good_for_its_own_context_alone(context: dict[str, str], vault: LocalVault) -> None:
    wrapped = await vault.wrap(b"secret", CONTEXT)

    with pytest.raises(VaultRefused, match="bound to something else"):
        await vault.unwrap(wrapped, context)
    with pytest.raises(VaultRefused, match="bound to something else"):
        await vault.rewrap(wrapped, context)
    assert await vault.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == b"secret"


async def test_whatever_byte_is_altered_it_is_refused(vault: LocalVault) -> None:
    wrapped = await vault.wrap(b"secret", CONTEXT)
    for position in range(len(wrapped)):
        altered = bytearray(wrapped)
        altered[position] ^= 1
        with pytest.raises(VaultRefused):
            await vault.unwrap(bytes(altered), CONTEXT)
    for other in (b"", wrapped[:21], wrapped[:-1], wrapped + b"\x00", b"\x02" + wrapped[1:], b"plain"):
        with pytest.raises(VaultRefused):
            await vault.unwrap(other, CONTEXT)
        assert not vault.is_current(other) or other[:9] == wrapped[:9]


async def test_keys_may_be_hex_or_base64_in_files_or_variables(
    tmp_path: Path, key_file: SecretLocation, open_vault: OpenVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = access_to(key_file).wrap(b"secret", CONTEXT)
    upper, coded = tmp_path / "upper", tmp_path / "coded"
    upper.write_text(f"  {KEYS[0].hex().upper()}\r\n")
    coded.write_bytes(base64.b64encode(KEYS[0]))
    monkeypatch.setenv("VAULT_KEY_OF_THIS_TEST", KEYS[0].hex())
    for same in (reference(upper), reference(coded), SecretLocation(env="VAULT_KEY_OF_THIS_TEST")):
        assert await open_vault(same).unwrap(wrapped, CONTEXT) == b"secret"


NO_KEYS = [
    "ab" * 31,
    "ab" * 33,
    "xy" * 32,
    " ".join(["ab"] * 32),
    base64.b64encode(bytes(31)).decode(),
    base64.b64encode(bytes(33)).decode(),
    base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    "correct horse battery staple, which is no key",
]


async def test_anything_else_is_no_key_and_is_not_shown(tmp_path: Path, open_vault: OpenVault) -> None:
    path = tmp_path / "vault.key"
    vault = open_vault(reference(path))
    for text in NO_KEYS:
        path.write_text(text)
        for refused in (vault.wrap(b"secret", CONTEXT), vault.check(), vault.unwrap(b"\x01" + bytes(50), CONTEXT)):
            with pytest.raises(Unavailable, match="neither 64 hex digits nor base64 of 32 bytes") as caught:
                await refused
            assert str(path) in str(caught.value)
            assert text[:8] not in str(caught.value).replace(str(path), "")


async def test_without_its_key_nothing_works_and_once_it_is_there_everything_does(
    tmp_path: Path, open_vault: OpenVault
) -> None:
    path = tmp_path / "vault.key"
    vault = open_vault(reference(path))
    for call in (vault.wrap(b"secret", CONTEXT), vault.unwrap(b"\x01" + bytes(50), CONTEXT), vault.check()):
        with pytest.raises(Unavailable, match=r"vault\.key is missing: there is no such file") as caught:
            await call
        assert type(caught.value) is Unavailable
    path.write_text(KEYS[0].hex())
    wrapped = await vault.wrap(b"secret", CONTEXT)
    path.unlink()
    with pytest.raises(Unavailable, match="no such file"):
        await vault.unwrap(wrapped, CONTEXT)
    path.mkdir()
    with pytest.raises(Unavailable, match="cannot be read: Is a directory"):
        await vault.unwrap(wrapped, CONTEXT)


async def test_another_master_key_is_refused_by_the_id_of_the_one_that_is_missing(
    tmp_path: Path, vault: LocalVault, open_vault: OpenVault
) -> None:
    wrapped = await vault.wrap(b"secret", CONTEXT)
    other = open_vault(reference(tmp_path / "other.key", KEYS[1]))
    await other.check()

    assert not other.is_current(wrapped)
    with pytest.raises(VaultRefused, match=key_id_of(KEYS[0]).hex()):
        await other.unwrap(wrapped, CONTEXT)


async def test_after_a_change_of_keys_old_secrets_open_and_are_wrapped_anew(
    tmp_path: Path, key_file: SecretLocation, vault: LocalVault, open_vault: OpenVault
) -> None:
    old = await vault.wrap(b"secret", CONTEXT)
    newest, older = reference(tmp_path / "new.key", KEYS[1]), reference(tmp_path / "older.key", KEYS[2])
    changed = open_vault(newest, older, key_file)
    sentence = await changed.check()
    for key in KEYS:
        assert key_id_of(key).hex() in sentence
        assert key.hex() not in sentence

    assert not changed.is_current(old)
    assert await changed.unwrap(old, CONTEXT) == b"secret"
    new = await changed.rewrap(old, CONTEXT)
    assert changed.is_current(new)
    assert await open_vault(newest).unwrap(new, CONTEXT) == b"secret"
    with pytest.raises(VaultRefused):
        await vault.unwrap(new, CONTEXT)


async def test_a_previous_key_that_is_gone_is_told_and_stops_only_what_needs_it(
    tmp_path: Path, key_file: SecretLocation, vault: LocalVault, open_vault: OpenVault
) -> None:
    old = await vault.wrap(b"secret", CONTEXT)
    changed = open_vault(reference(tmp_path / "new.key", KEYS[1]), reference(tmp_path / "gone.key"))

    assert "gone.key is missing" in await changed.check()
    assert await changed.unwrap(await changed.wrap(b"secret", CONTEXT), CONTEXT) == b"secret"
    with pytest.raises(Unavailable, match=r"gone\.key"):
        await changed.unwrap(old, CONTEXT)


async def test_what_is_current_is_known_from_the_first_check_on(
    open_vault: OpenVault, key_file: SecretLocation
) -> None:
    vault = open_vault(key_file)
    wrapped = access_to(key_file).wrap(b"secret", CONTEXT)

    assert not vault.is_current(wrapped)
    assert key_id_of(KEYS[0]).hex() in await vault.check()
    assert vault.is_current(wrapped)
    assert not vault.is_current(b"something else")


async def test_the_access_for_other_processes_holds_no_key_and_does_the_same(vault: LocalVault) -> None:
    carried = pickle.dumps(vault.access())
    access = pickle.loads(carried)

    assert KEYS[0] not in carried
    assert KEYS[0].hex().encode() not in carried
    assert access.unwrap(await vault.wrap(b"secret", CONTEXT), CONTEXT) == b"secret"
    assert await vault.unwrap(access.wrap(b"secret", CONTEXT), CONTEXT) == b"secret"


async def test_the_key_file_is_made_for_its_owner_alone_and_never_anew(tmp_path: Path, open_vault: OpenVault) -> None:
    path = tmp_path / "deep" / "vault.key"
    before = os.umask(0)
    try:
        vault = open_vault(reference(path))
        assert await vault.create_master_key(is_anything_wrapped=False)
    finally:
        os.umask(before)
    made = path.read_text()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(bytes.fromhex(made)) == 32
    assert not await vault.create_master_key(is_anything_wrapped=False)
    assert path.read_text() == made
    assert [item.name for item in path.parent.iterdir()] == ["vault.key"]
    assert await vault.unwrap(await vault.wrap(b"secret", CONTEXT), CONTEXT) == b"secret"


async def test_no_new_key_is_made_where_secrets_wait_for_the_old_one(tmp_path: Path, open_vault: OpenVault) -> None:
    path = tmp_path / "vault.key"
    with pytest.raises(Unavailable, match="restore the master key from its backup"):
        await open_vault(reference(path)).create_master_key(is_anything_wrapped=True)

    assert not path.exists()


async def test_a_key_file_that_cannot_be_made_is_told(tmp_path: Path, open_vault: OpenVault) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"vault\.key cannot be made: Not a directory"):
        await open_vault(reference(tmp_path / "file" / "deeper" / "vault.key")).create_master_key(False)


_CREATE = """
import sys
from pathlib import Path
from precipiq_core.system import SystemRandomness
from precipiq_contracts.secret_location import read_key_file
from precipiq_core.key_files import create_key_file
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    file = path / f"{number}.key"
    made = create_key_file(file, SystemRandomness(), where="test")
    print(number, made, read_key_file(file), flush=True)
"""


def test_several_processes_that_make_the_key_at_once_get_the_same_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CREATE, str(tmp_path)]
    racing = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in racing:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=30)[0].split() for process in racing]
    for number in range(50):
        made = [words[3 * number + 1] for words in said]
        keys = {words[3 * number + 2] for words in said}
        assert (sorted(made), len(keys)) == (["False", "False", "True"], 1)
        assert len(bytes.fromhex(keys.pop())) == 32
    assert len(list(tmp_path.iterdir())) == 50
