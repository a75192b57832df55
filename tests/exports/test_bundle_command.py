"""``precipiq bundle verify``: verdict, exit code and one JSON document, for whatever file it is given."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from precipiq_exports.bundle_commands import bundle_group

from .chains import MadeChain, bundle_of, key, longer, packed, public_der, unpack_to, unpacked

FINGERPRINT = sha256(public_der(key())).hexdigest()


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return bundle_of(longer(MadeChain(), 3))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bundle_group, ["verify", *map(str, arguments)])


def test_a_good_bundle_is_verified_packed_and_unpacked(bundle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(bundle)
    spaced = " ".join(FINGERPRINT[at : at + 4].upper() for at in range(0, 64, 4))
    for where in (path, unpack_to(unpacked(bundle), tmp_path / "unpacked")):
        done = run(where, "--fingerprint", spaced)
        assert done.exit_code == 0, done.output
        assert "VERIFIED: the key is the one that you expect" in done.stdout
        assert "VERIFIED: the signature holds by a second implementation (cryptography) too" in done.stdout
        assert "NOT CHECKED: that the server shows this chain to everybody" in done.stdout
    document = json.loads(run(path, "--json").stdout)
    assert (document["verdict"], document["entries"], document["head"]["seq"]) == ("verified", 3, 3)
    assert document["fingerprint"] == FINGERPRINT


def test_an_altered_bundle_fails_and_says_where(bundle: bytes, tmp_path: Path) -> None:
    files = unpacked(bundle)
    path = tmp_path / "bundle.zip"
    path.write_bytes(packed({**files, "manifest.json": files["manifest.json"].replace(b"exp_1", b"exp_2")}))
    done = run(path)
    assert done.exit_code == 1
    assert "FAILED: manifest.json.sig: the signature does not fit" in done.stdout
    assert "FAILED: manifest.json.sig: the signature does not hold by a second implementation" in done.stdout
    assert "VERIFIED" not in done.stdout
    document = json.loads(run(path, "--json").stdout)
    assert (document["verdict"], document["problems"][0]["where"]) == ("failed", "manifest.json.sig")


def test_another_key_than_expected_fails(bundle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(bundle)
    done = run(path, "--fingerprint", "0" * 64)
    assert (done.exit_code, "as you expect" in done.stdout) == (1, True)


def test_what_is_no_bundle_could_not_be_checked(bundle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(bundle)
    (tmp_path / "text").write_text("no ZIP")
    (tmp_path / "other.zip").write_bytes(packed({"a\x1b[31m": b""}))
    for arguments in (
        [tmp_path / "none"],
        [tmp_path / "text"],
        [tmp_path / "other.zip"],
        [path, "--fingerprint", "ab"],
    ):
        done = run(*arguments)
        assert (done.exit_code, "could not check" in done.stderr) == (2, True)
        assert json.loads(run(*arguments, "--json").stdout)["verdict"] == "could_not_check"


def test_names_in_a_hostile_archive_cannot_control_the_terminal(bundle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(packed({**unpacked(bundle), "\x1b[2J\u202e": b""}))
    done = run(path)
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert "FAILED: \\x1b[2J\\u202e: the file is not one of the bundle" in done.stdout
