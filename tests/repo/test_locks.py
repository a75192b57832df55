"""The lock files pin what the project files ask for, all of it, with hashes, at one version, and nothing else.

Reads the files and the environment's metadata; asks no index.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = ["aws", "postgres", "redis"]
RUNTIME, DEVELOPMENT = "requirements.lock", "requirements-dev.lock"
LOCKS = {RUNTIME: "runtime", DEVELOPMENT: "dev"} | {f"requirements-{extra}.lock": extra for extra in EXTRAS}
PYTHONS = ["3.11", "3.12", "3.13"]
MACHINES = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64")]

Pin = tuple[Requirement, frozenset[str]]
"""One entry of a lock, and its hashes."""


@cache
def _pins(lock: str) -> tuple[Pin, ...]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return tuple(
        (Requirement(block.partition(" \\\n")[0]), frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block)))
        for block in re.split(r"\n(?=\S)", text.strip())
    )


def _in_force(lock: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Version by name: what a Python and a machine get from a lock; by default those of this process."""
    pins = [pin for pin, _ in _pins(lock) if pin.marker is None or pin.marker.evaluate(environment)]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names)), f"{lock} pins something twice for {environment}"
    return {name: str(pin.specifier).removeprefix("==") for name, pin in zip(names, pins, strict=True)}


@cache
def _inputs(kind: str) -> tuple[Requirement, ...]:
    """What scripts/lock gives to the resolver."""
    command = [sys.executable, str(ROOT / "scripts" / "lock_inputs.py"), kind]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()
    if kind == "dev":
        lines += (ROOT / "requirements-dev.in").read_text(encoding="utf-8").splitlines()
    return tuple(Requirement(text) for line in lines if (text := line.partition("#")[0].strip()))


@cache
def _needs() -> dict[str, tuple[Requirement, ...]]:
    """What each installed distribution requires."""
    return {
        canonicalize_name(installed.name): tuple(map(Requirement, installed.requires or []))
        for installed in distributions()
    }


def _closure(wanted: tuple[Requirement, ...]) -> set[str]:
    """Names of all that is needed here for these requirements, as the environment's metadata says."""
    found: set[tuple[str, str]] = set()
    waiting = [(each, "") for each in wanted]
    while waiting:
        requirement, extra_of_parent = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra_of_parent}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                waiting += [(each, extra) for each in _needs()[name]]
    return {name for name, _ in found}


@pytest.mark.parametrize("lock", [*LOCKS, "tests/sdk.lock", "scripts/bench_parts/peers.lock"])
def test_a_lock_pins_one_version_of_each_with_hashes_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    for pin, hashes in _pins(lock):
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), f"{pin} is no version"
        assert hashes, f"{pin.name} has no hash"
    for python in PYTHONS:
        for system, machine in MACHINES:
            environment = {"python_version": python, "python_full_version": f"{python}.9"}
            _in_force(lock, environment | {"sys_platform": system, "platform_machine": machine})


@pytest.mark.parametrize(("lock", "kind"), LOCKS.items())
def test_a_lock_has_each_of_its_inputs_at_a_version_that_the_input_allows(lock: str, kind: str) -> None:
    for wanted in _inputs(kind):
        pins = [pin for pin, _ in _pins(lock) if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        assert pins, f"{wanted} is not in {lock}: run scripts/lock"
        for pin in pins:
            assert str(pin.specifier).removeprefix("==") in wanted.specifier, f"{pin} is not {wanted}: run scripts/lock"


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != DEVELOPMENT])
def test_the_development_lock_holds_every_other_lock_at_the_same_versions(lock: str) -> None:
    everything = {(canonicalize_name(pin.name), str(pin.specifier)): hashes for pin, hashes in _pins(DEVELOPMENT)}
    for pin, hashes in _pins(lock):
        assert everything.get((canonicalize_name(pin.name), str(pin.specifier))) == hashes, f"{pin}: run scripts/lock"


@pytest.mark.parametrize(("lock", "kind"), LOCKS.items())
def test_a_lock_holds_all_that_its_inputs_need_and_nothing_else(lock: str, kind: str) -> None:
    assert set(_in_force(lock)) == _closure(_inputs(kind))


def test_the_runtime_lock_has_nothing_that_only_tests_tools_or_extras_need() -> None:
    tools = {canonicalize_name(wanted.name) for wanted in _inputs("dev")} - {
        canonicalize_name(wanted.name) for wanted in _inputs("runtime")
    }
    assert {"pytest", "mypy", "moto", "boto3", "redis", "asyncpg"} <= tools
    # The protocol library of a tool is also what Hypercorn speaks WebSocket with; anyio is Starlette's.
    assert tools & set(_in_force(RUNTIME)) == {"wsproto", "anyio"}


def test_the_environment_holds_what_the_development_lock_pins_and_the_members() -> None:
    installed = {
        canonicalize_name(each.name): each.version for each in distributions() if "precipiq" not in each.name.lower()
    }
    assert installed == _in_force(DEVELOPMENT), "run scripts/bootstrap --dev"


def test_what_bootstrap_and_lock_call_extras_are_those_of_the_members() -> None:
    sys_path_free = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "lock_inputs.py"), "none"], capture_output=True, text=True, timeout=30
    )
    assert sys_path_free.stderr.strip() == f"error: there is no lock 'none': runtime, dev, {', '.join(EXTRAS)}"
    assert f"for name in runtime {' '.join(EXTRAS)}; do" in (ROOT / "scripts" / "lock").read_text(encoding="utf-8")
    bootstrap = (ROOT / "scripts" / "bootstrap").read_text(encoding="utf-8")
    assert f"for part in dev {' '.join(EXTRAS)}; do" in bootstrap
    assert f"[--extra {'|'.join(EXTRAS)}]" in bootstrap
