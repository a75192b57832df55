"""The master key: where it comes from, what is refused, and that it never shows."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from precipiq_core.deployment import SecretSettings
from precipiq_core.errors import DeploymentError
from precipiq_core.secrets import HkdfMasterKey, open_master_key
from precipiq_core.settings import SecretReference
from precipiq_testkit.clock import SeededRandomness


def settings(create: bool = False, **reference: object) -> SecretSettings:
    return SecretSettings(master_key=SecretReference(**reference), create_master_key=create)  # type: ignore[arg-type]


def test_the_first_start_makes_the_key_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "master.key"

    first = open_master_key(settings(True, file=path), SeededRandomness(1))
    again = open_master_key(settings(True, file=path), SeededRandomness(2))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert first.derive("a") == again.derive("a")


def test_an_absent_key_is_not_made_unless_the_deployment_allows_it(tmp_path: Path) -> None:
    path = tmp_path / "master.key"

    with pytest.raises(DeploymentError, match="copy it from another machine"):
        open_master_key(settings(file=path), SeededRandomness())

    assert not path.exists()


def test_a_key_that_cannot_be_made_is_a_deployment_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DeploymentError, match=r"master\.key cannot be (made|read)"):
        open_master_key(settings(True, file=tmp_path / "file" / "deeper" / "master.key"), SeededRandomness())


def test_a_deployment_without_a_key_says_so() -> None:
    with pytest.raises(DeploymentError, match="is required"):
        open_master_key(SecretSettings(), SeededRandomness())  # type: ignore[call-arg]


@pytest.mark.parametrize("value", ["", "   \n", "short"])
def test_an_empty_or_short_key_is_refused_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_KEY_OF_THIS_TEST", value)

    with pytest.raises(DeploymentError) as caught:
        open_master_key(settings(env="MASTER_KEY_OF_THIS_TEST"), SeededRandomness())

    assert "short" not in str(caught.value)


def test_each_purpose_has_a_key_of_its_own_and_none_shows() -> None:
    secret = SeededRandomness().bytes(32).hex()
    master = HkdfMasterKey(secret)

    assert len({master.derive(purpose) for purpose in ("a", "b", "c")}) == 3
    assert {len(master.derive("a"))} == {32}
    assert master.derive("a") == HkdfMasterKey(secret).derive("a") != HkdfMasterKey(secret[::-1]).derive("a")
    assert secret not in repr(master)
