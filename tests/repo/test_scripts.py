"""What scripts/bootstrap and scripts/audit promise, on a small tree with a Python that only notes what it is asked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_PYTHON = f"""#!/bin/sh
case "$*" in
  "-c "*) exec {sys.executable} "$@" ;;
  "--version") echo Python 3.11.0 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && : >"$3/pyvenv.cfg" ;;
  "-m pip "*)
    echo "$*" >>asked
    [ -e pip_is_slow ] && sleep 1
    [ -e pip_fails ] && echo "ERROR: no network" >&2 && exit 1
    case "$*" in *--progress-bar*) cat pip_prints ;; esac ;;
esac
"""
PIP_PRINTS = """Looking in indexes: somewhere
Ignoring three: markers 'python_full_version >= "3.12"' don't match your environment
Collecting one==1 (from -r requirements.lock (line 1))
  Downloading one-1-py3-none-any.whl (270 kB)
Processing ./somewhere/two_b-2.0-cp311-cp311-linux.whl (from -r requirements.lock (line 3))
Installing collected packages: one, two-b
"""
LOCK = f"""one==1 \\
    --hash=sha256:{"0" * 64}
pip==26 \\
    --hash=sha256:{"1" * 64}
    # via -r project-files
three==3
"""


@dataclass(frozen=True, slots=True)
class Tree:
    """A project of nothing but scripts, project files and a lock."""

    root: Path

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / "scripts" / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def bootstrap(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("bootstrap", "--python", str(self.root / "python"), *arguments)

    def start_bootstrap(self) -> subprocess.Popen[str]:
        command = [str(self.root / "scripts" / "bootstrap"), "--python", str(self.root / "python")]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def asked(self) -> list[str]:
        """The pip commands so far."""
        return (self.root / "asked").read_text().splitlines()

    def installed(self) -> list[list[str]]:
        """The lock files of each installation so far, without the first step, which renews pip itself."""
        return [
            re.findall(r"-r (requirements\S*)", command) for command in self.asked() if "-r requirements" in command
        ]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for member in ["core", "tests/testkit", *(f"plugins/{path.parent.name}" for path in _plugins())]:
        (tmp_path / member).mkdir(parents=True)
        shutil.copy(ROOT / member / "pyproject.toml", tmp_path / member)
    for lock in ROOT.glob("requirements*.lock"):
        (tmp_path / lock.name).write_text(LOCK)
    (tmp_path / "pip_prints").write_text(PIP_PRINTS)
    _executable(tmp_path / "python", FAKE_PYTHON)
    return Tree(tmp_path)


def _plugins() -> list[Path]:
    return sorted(ROOT.glob("plugins/*/pyproject.toml"))


def _executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_bootstrap_renews_pip_then_installs_the_runtime_by_hash_and_then_every_member_editable(tree: Tree) -> None:
    assert tree.bootstrap().returncode == 0
    renewed, locked, members = tree.asked()
    assert "--require-hashes -r .venv/pip.lock" in renewed
    assert (tree.root / ".venv/pip.lock").read_text() == f"pip==26 \\\n    --hash=sha256:{'1' * 64}\n"
    assert "--no-deps --no-compile --require-hashes" in locked
    assert tree.installed() == [["requirements.lock"]]
    assert "--no-deps --no-compile --no-build-isolation" in members
    assert [member for member in members.split() if member.startswith("--editable=plugins/")] == [
        f"--editable=plugins/{path.parent.name}" for path in _plugins()
    ]
    assert "tests/testkit" not in members


def test_bootstrap_tells_its_progress_on_standard_error(tree: Tree) -> None:
    done = tree.bootstrap()
    assert done.stdout == ""
    lines = [line.removeprefix("bootstrap: ") for line in done.stderr.splitlines()]
    assert lines[0].startswith("preparing .venv (once")
    assert lines[1:5] == ["[2/3] one 1", "[3/3] two_b 2.0", "[3/3] unpacking ...", "the server's own packages ..."]
    assert lines[5].startswith(".venv is ready after ")


@pytest.mark.parametrize("parts", [(), ("--dev",), ("--extra", "redis")])
def test_a_second_bootstrap_does_and_says_nothing(tree: Tree, parts: tuple[str, ...]) -> None:
    tree.bootstrap(*parts)
    asked = tree.asked()
    again = tree.bootstrap(*parts)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert tree.asked() == asked


def test_an_extra_and_then_development_are_added_to_what_is_there_and_stay(tree: Tree) -> None:
    tree.bootstrap()
    assert tree.bootstrap("--extra", "redis").returncode == 0
    assert tree.bootstrap("--extra", "postgres").returncode == 0
    assert tree.bootstrap("--dev").returncode == 0
    assert tree.installed() == [
        ["requirements.lock"],
        ["requirements.lock", "requirements-redis.lock"],
        ["requirements.lock", "requirements-postgres.lock", "requirements-redis.lock"],
        ["requirements-dev.lock"],
    ]
    assert tree.asked()[-1].endswith("--editable=tests/testkit")
    asked = tree.asked()
    for arguments in [(), ("--dev",), ("--extra", "aws"), ("--extra", "redis")]:
        assert tree.bootstrap(*arguments).stderr == ""
    assert tree.asked() == asked


@pytest.mark.parametrize("changed", ["requirements.lock", "core/pyproject.toml", "plugins/ledger/pyproject.toml"])
def test_bootstrap_starts_over_when_what_it_installs_changes(tree: Tree, changed: str) -> None:
    tree.bootstrap()
    with (tree.root / changed).open("a") as file:
        file.write("# changed\n")
    assert tree.bootstrap().returncode == 0
    assert len(tree.asked()) == 6


def test_starting_over_keeps_the_extras_even_when_it_fails_at_first(tree: Tree) -> None:
    tree.bootstrap("--extra", "redis")
    (tree.root / "requirements.lock").write_text(LOCK + "four==4\n")
    (tree.root / "pip_fails").touch()
    assert tree.bootstrap().returncode != 0
    (tree.root / "pip_fails").unlink()
    assert tree.bootstrap().returncode == 0
    assert tree.installed()[-1] == ["requirements.lock", "requirements-redis.lock"]


def test_a_bootstrap_that_failed_says_why_and_leaves_nothing_that_passes_for_whole(tree: Tree) -> None:
    (tree.root / "pip_fails").touch()
    failed = tree.bootstrap()
    assert failed.returncode != 0
    assert "no network" in failed.stderr
    (tree.root / "pip_fails").unlink()
    assert tree.bootstrap().returncode == 0
    assert len(tree.asked()) == 4


def test_several_at_once_install_once(tree: Tree) -> None:
    (tree.root / "pip_is_slow").touch()
    running = [tree.start_bootstrap() for _ in range(3)]
    said = [process.communicate(timeout=30)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(tree.asked()) == 3
    assert sum("preparing" in each for each in said) == 1
    assert sum("waiting for another one" in each for each in said) == 2


@pytest.mark.parametrize("arguments", [["--extra", "mysql"], ["--extra"], ["runtime"]])
def test_bootstrap_names_the_extras_that_there_are(tree: Tree, arguments: list[str]) -> None:
    refused = tree.bootstrap(*arguments)
    assert refused.returncode == 2
    assert "[--extra aws|postgres|redis]" in refused.stderr


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
    _executable(tree.root / "scripts/bootstrap", '#!/bin/sh\necho "$*" >"${0%/*}/../bootstrap_arguments"\n')
    for program in ["precipiq", "python"]:
        _executable(tree.root / ".venv/bin" / program, '#!/bin/sh\nprintf "%s|" "$@"; exit 7\n')
    done = tree.run(script, "a b", "--flag")
    assert done.returncode == 7
    assert (tree.root / "bootstrap_arguments").read_text() == {"serve": "\n", "test": "--dev\n"}[script]
    assert (
        done.stdout
        == {"serve": "serve|a b|--flag|", "test": "-m|pytest|-n|auto|-p|no:schemathesis|a b|--flag|"}[script]
    )


def test_every_part_of_the_bench_finds_what_it_imports() -> None:
    code = (
        "import ast, importlib, pathlib, sys\n"
        "for path in sorted(pathlib.Path('.').glob('*.py')):\n"
        "    for node in ast.parse(path.read_text()).body:\n"
        "        if isinstance(node, ast.ImportFrom):\n"
        "            module = importlib.import_module(node.module)\n"
        "            [getattr(module, name.name) for name in node.names]\n"
        "    print(path.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts/bench_parts", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "http_append.py" in done.stdout
