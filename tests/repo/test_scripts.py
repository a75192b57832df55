"""What scripts/bootstrap and scripts/audit promise, on a small tree with a Python that only notes what it is asked."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && : >"$3/pyvenv.cfg" ;;
  "-m pip "*) echo "$*" >>asked; [ ! -e pip_fails ] ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Tree:
    """A project of nothing but scripts, project files and a lock."""

    root: Path

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / "scripts" / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def bootstrap(self) -> subprocess.CompletedProcess[str]:
        return self.run("bootstrap", "--python", str(self.root / "python"))

    def asked(self) -> list[str]:
        """The pip commands so far."""
        return (self.root / "asked").read_text().splitlines()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for member in ["core", "tests/testkit", *(f"plugins/{path.parent.name}" for path in _plugins())]:
        (tmp_path / member).mkdir(parents=True)
        shutil.copy(ROOT / member / "pyproject.toml", tmp_path / member)
    (tmp_path / "requirements.lock").write_text("one==1\n")
    _executable(tmp_path / "python", FAKE_PYTHON)
    return Tree(tmp_path)


def _plugins() -> list[Path]:
    return sorted(ROOT.glob("plugins/*/pyproject.toml"))


def _executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_bootstrap_installs_the_lock_by_hash_and_then_every_member_editable(tree: Tree) -> None:
    assert tree.bootstrap().returncode == 0
    locked, members = tree.asked()
    assert "--require-hashes -r requirements.lock" in locked
    assert "--no-deps --no-build-isolation" in members
    assert [member for member in members.split() if member.startswith("--editable=plugins/")] == [
        f"--editable=plugins/{path.parent.name}" for path in _plugins()
    ]


def test_a_second_bootstrap_does_and_says_nothing(tree: Tree) -> None:
    tree.bootstrap()
    asked = tree.asked()
    again = tree.bootstrap()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert tree.asked() == asked


@pytest.mark.parametrize("changed", ["requirements.lock", "core/pyproject.toml", "plugins/ledger/pyproject.toml"])
def test_bootstrap_starts_over_when_what_it_installs_changes(tree: Tree, changed: str) -> None:
    tree.bootstrap()
    with (tree.root / changed).open("a") as file:
        file.write("# changed\n")
    assert tree.bootstrap().returncode == 0
    assert len(tree.asked()) == 4


def test_a_bootstrap_that_failed_leaves_nothing_that_passes_for_whole(tree: Tree) -> None:
    (tree.root / "pip_fails").touch()
    assert tree.bootstrap().returncode != 0
    (tree.root / "pip_fails").unlink()
    assert tree.bootstrap().returncode == 0
    assert len(tree.asked()) == 3


def test_bootstrap_refuses_a_python_that_is_too_old_or_too_new(tree: Tree) -> None:
    _executable(tree.root / "python", "#!/bin/sh\n[ $1 = --version ] && echo Python 3.99.0 || exit 1\n")
    refused = tree.bootstrap()
    assert refused.returncode == 1
    assert "3.11, 3.12 or 3.13 is needed" in refused.stderr
    assert "Python 3.99.0" in refused.stderr
    assert not (tree.root / ".venv").exists()


@pytest.mark.parametrize(
    ("pip_audit", "code", "says"),
    [
        ("echo No known vulnerabilities found", 0, "no known vulnerabilities"),
        ("echo Found 2 known vulnerabilities in 1 package; exit 1", 1, "vulnerabilities found"),
        ("echo could not be audited; exit 1", 2, "could not check"),
        ("exit 127", 2, "could not check"),
    ],
)
def test_audit_is_clean_only_when_it_could_check(tree: Tree, pip_audit: str, code: int, says: str) -> None:
    _executable(tree.root / "scripts/bootstrap", "#!/bin/sh\n")
    _executable(tree.root / ".venv/bin/pip-audit", f"#!/bin/sh\n{pip_audit}\n")
    audit = tree.run("audit")
    assert audit.returncode == code
    assert says in audit.stdout + audit.stderr
    assert (code == 0) == ("audit: no known" in audit.stdout)


@pytest.mark.parametrize("script", ["serve", "test"])
def test_serve_and_test_hand_their_arguments_on_and_return_the_exit_code(tree: Tree, script: str) -> None:
    _executable(tree.root / "scripts/bootstrap", "#!/bin/sh\n")
    for program in ["precipiq", "python"]:
        _executable(tree.root / ".venv/bin" / program, '#!/bin/sh\nprintf "%s|" "$@"; exit 7\n')
    done = tree.run(script, "a b", "--flag")
    assert done.returncode == 7
    assert done.stdout == {"serve": "serve|a b|--flag|", "test": "-m|pytest|-n|auto|a b|--flag|"}[script]
