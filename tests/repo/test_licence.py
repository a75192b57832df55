"""Every distribution that can be built here says its licence and carries its text."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMBERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for pattern in ("core", "plugins/*", "tests/*")
    for path in ROOT.glob(f"{pattern}/pyproject.toml")
)
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the text as the Apache Software Foundation publishes it."""
BUILD = """
import os, sys
from hatchling.build import build_sdist, build_wheel
for member in sys.argv[2:]:
    os.chdir(member)
    build_wheel(sys.argv[1])
    build_sdist(sys.argv[1])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution of each member."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-c", BUILD, str(folder), *(str(ROOT / member) for member in MEMBERS)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def _stem(member: str) -> str:
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['name'].replace('-', '_')}-{project['version']}"


def test_the_licence_is_the_text_that_everybody_knows_and_the_notice_says_whose_work_it_is() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0
    assert "Precipiq contributors" in (ROOT / "NOTICE").read_text(encoding="utf-8")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_wheel_states_the_licence_and_carries_its_text(member: str, built: Path) -> None:
    with zipfile.ZipFile(built / f"{_stem(member)}-py3-none-any.whl") as wheel:
        information = f"{_stem(member)}.dist-info"
        metadata = HeaderParser().parsestr(wheel.read(f"{information}/METADATA").decode())
        assert metadata["License-Expression"] == "Apache-2.0"
        for name in ("LICENSE", "NOTICE"):
            assert wheel.read(f"{information}/licenses/{name}") == (ROOT / name).read_bytes()


@pytest.mark.parametrize("member", MEMBERS)
def test_a_source_distribution_carries_the_licence(member: str, built: Path) -> None:
    with tarfile.open(built / f"{_stem(member)}.tar.gz") as source:
        for name in ("LICENSE", "NOTICE"):
            file = source.extractfile(f"{_stem(member)}/{name}")
            assert file is not None
            assert file.read() == (ROOT / name).read_bytes()
