"""The master key: where it comes from, what is refused, and that it never shows."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.settings import SecretReference
from precipiq_core.deployment import SecretSettings
from precipiq_core.secrets import DeploymentMasterKey
from precipiq_testkit.clock import SeededRandomness


def settings(create: bool = False, **reference: object) -> SecretSettings:
    return SecretSettings(master_key=SecretReference(**reference), create_master_key=create)  # type: ignore[arg-type]


def test_the_first_start_makes_the_key_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "master.key"

    first = DeploymentMasterKey(settings(True, file=path), SeededRandomness(1))
    again = DeploymentMasterKey(settings(True, file=path), SeededRandomness(2))

    assert first.derive("a") == again.derive("a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_absent_key_is_not_made_unless_the_deployment_allows_it(tmp_path: Path) -> None:
    path = tmp_path / "master.key"

    with pytest.raises(DeploymentError, match="copy it from another machine"):
        DeploymentMasterKey(settings(file=path), SeededRandomness()).derive("")

    assert not path.exists()


def test_a_key_that_cannot_be_made_is_a_deployment_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DeploymentError, match=r"master\.key cannot be (made|read)"):
        DeploymentMasterKey(
            settings(True, file=tmp_path / "file" / "deeper" / "master.key"), SeededRandomness()
        ).derive("")


def test_a_deployment_without_a_key_says_so() -> None:
    with pytest.raises(DeploymentError, match="is required"):
        DeploymentMasterKey(SecretSettings(), SeededRandomness()).derive("")  # type: ignore[call-arg]


@pytest.mark.parametrize("value", ["", "   \n", "short"])
def test_an_empty_or_short_key_is_refused_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_KEY_OF_THIS_TEST", value)

    with pytest.raises(DeploymentError) as caught:
        DeploymentMasterKey(settings(env="MASTER_KEY_OF_THIS_TEST"), SeededRandomness()).derive("")

    assert "short" not in str(caught.value)


def test_each_purpose_has_a_key_of_its_own_and_none_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SeededRandomness().bytes(32).hex()
    monkeypatch.setenv("MASTER_KEY_OF_THIS_TEST", secret)
    monkeypatch.setenv("ANOTHER_KEY_OF_THIS_TEST", secret[::-1])
    master, same, other = (
        DeploymentMasterKey(settings(env=f"{name}_KEY_OF_THIS_TEST"), SeededRandomness())
        for name in ("MASTER", "MASTER", "ANOTHER")
    )

    assert len({master.derive(purpose) for purpose in ("a", "b", "c")}) == 3
    assert {len(master.derive("a"))} == {32}
    assert master.derive("a") == same.derive("a") != other.derive("a")
    assert secret not in repr(master) + repr(vars(master))


def test_keys_are_derived_by_hkdf_wherever_the_master_key_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SeededRandomness().bytes(64).hex()
    (tmp_path / "master.key").write_text(f" {secret}\n")
    monkeypatch.setenv("MASTER_KEY_OF_THIS_TEST", secret)
    in_file = DeploymentMasterKey(settings(file=tmp_path / "master.key"), SeededRandomness())
    in_variable = DeploymentMasterKey(settings(env="MASTER_KEY_OF_THIS_TEST"), SeededRandomness())

    for purpose in ("", "a", "ledger checkpoints", "é" * 100):
        expected = HKDF(SHA256(), length=32, salt=None, info=f"precipiq:{purpose}".encode()).derive(secret.encode())
        assert in_file.derive(purpose) == in_variable.derive(purpose) == expected


def test_a_key_in_a_file_is_read_once_for_each_purpose_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    master = DeploymentMasterKey(settings(True, file=path), SeededRandomness())
    derived = master.derive("a")
    secret = path.read_text().strip()
    path.unlink()

    assert master.derive("a") == derived
    with pytest.raises(DeploymentError, match=r"no file .*master\.key"):
        master.derive("b")
    assert secret.encode() not in pickle.dumps(vars(master))


@pytest.mark.parametrize("value", ["", "   \n", "hunter2"])
def test_an_empty_or_short_key_in_a_file_is_refused_without_showing_it(value: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(value)

    with pytest.raises(DeploymentError, match=r"missing or empty|at least 32 characters") as caught:
        DeploymentMasterKey(settings(file=path), SeededRandomness()).derive("")

    assert "hunter2" not in str(caught.value)


def test_a_process_that_cannot_read_the_key_is_a_deployment_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precipiq_work.child_process._COMMAND", ("nowhere",))

    with pytest.raises(DeploymentError, match="did not answer"):
        DeploymentMasterKey(settings(True, file=tmp_path / "master.key"), SeededRandomness()).derive("")
