"""The local vault in a deployment: its first start, its troubles as the operator sees them, and ``precipiq vault``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from precipiq_contracts.secret_location import SecretLocation
from precipiq_contracts.services import Services
from precipiq_contracts.vault import KeyVault, WrappedSecret, WrappedSecrets
from precipiq_core.boot import Assembly, assemble
from precipiq_core.cli.context import CliContext
from precipiq_core.deployment import parse_deployment
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_operations.vault import vault_group
from precipiq_vault_local.keys import LocalVaultAccess, key_id_of
from precipiq_vault_local.plugin import VaultLocalPlugin

pytestmark = pytest.mark.anyio

CONTEXT = {"purpose": "test"}
ONE, OTHER, LOST = (bytes([number]) * 32 for number in (1, 2, 3))


class Terminal:
    is_terminal = False

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Holder:
    """Wrapped secrets of a plugin; ``taken``: refs that somebody else changes before they are replaced."""

    name = "test secrets"

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.taken: set[str] = set()

    async def all(self) -> AsyncIterator[WrappedSecret]:
        for ref, wrapped in list(self.stored.items()):
            yield WrappedSecret(ref, wrapped, CONTEXT)

    async def replace(self, secret: WrappedSecret, wrapped: bytes) -> bool:
        if secret.ref in self.taken:
            return False
        self.stored[secret.ref] = wrapped
        return True


class HolderPlugin(PluginBase[PluginConfig]):
    name = "holder"
    requires: ClassVar[tuple[type, ...]] = (KeyVault,)
    holder: ClassVar[Holder]

    @hookimpl
    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        return [self.holder]


class Deployment:
    """A vault and a plugin that stores what it wraps, as often as wanted from the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.holder = Holder()
        self.terminal = Terminal()
        self.settings: dict[str, Any] = {"master_key": {"file": "vault.key"}}

    def put_key(self, name: str, key: bytes) -> None:
        (self.folder / name).write_text(key.hex())

    def assembly(self, *, serving: bool) -> Assembly:
        HolderPlugin.holder = self.holder
        document = {
            "deployment": {"name": "t", "data_dir": str(self.folder)},
            "plugins": {"vault_local": self.settings, "holder": {}},
        }
        return assemble(
            parse_deployment(document, self.folder / "precipiq.toml", {}),
            clock=SystemClock(),
            randomness=SystemRandomness(),
            console=self.terminal,
            serving=serving,
            installed=[
                EntryPoint("vault_local", f"{VaultLocalPlugin.__module__}:VaultLocalPlugin", "precipiq"),
                EntryPoint("holder", f"{__name__}:HolderPlugin", "precipiq"),
            ],
        )

    def run(self, *arguments: str) -> Result:
        """A ``precipiq vault`` command."""
        assembly = self.assembly(serving=False)
        return CliRunner().invoke(vault_group, arguments, obj=CliContext(assembly))


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def wrap_under(deployment: Deployment, key: bytes) -> bytes:
    deployment.put_key("some.key", key)
    access = LocalVaultAccess(SecretLocation(file=deployment.folder / "some.key"), (), SystemRandomness())
    return access.wrap(b"secret", CONTEXT)


def readiness(assembly: Assembly) -> float | None:
    return assembly.services.get(CollectorRegistry).get_sample_value("precipiq_vault_ready")


def said(lines: list[Any]) -> list[tuple[str, str]]:
    return [(line["log_level"], line.get("reason", "")) for line in lines]


async def test_the_first_start_makes_a_key_and_tells_it_once(deployment: Deployment) -> None:
    deployment.settings["create_master_key"] = True
    for _ in range(2):
        assembly = deployment.assembly(serving=True)
        async with run_lifespans(assembly):
            vault = assembly.services.get(KeyVault)
            assert await vault.unwrap(await vault.wrap(b"secret", CONTEXT), CONTEXT) == b"secret"
            assert readiness(assembly) == 1

    [text] = deployment.terminal.said
    path = deployment.folder / "vault.key"
    assert str(path) in text
    assert "Keep a copy apart from the database" in text
    assert path.read_text().strip() not in text


async def test_no_key_is_made_unless_the_deployment_says_so(deployment: Deployment) -> None:
    async with run_lifespans(deployment.assembly(serving=True)):
        pass

    assert not (deployment.folder / "vault.key").exists()
    assert deployment.terminal.said == []


async def test_no_key_takes_the_place_of_one_that_is_lost(deployment: Deployment) -> None:
    deployment.settings["create_master_key"] = True
    deployment.holder.stored["a"] = wrap_under(deployment, LOST)
    with capture_logs() as lines:
        async with run_lifespans(deployment.assembly(serving=True)):
            pass

    assert [level for level, _ in said(lines)] == ["error", "critical"]
    assert "restore the master key from its backup" in said(lines)[0][1]
    assert not (deployment.folder / "vault.key").exists()


async def test_a_missing_or_wrong_key_stops_no_start_and_works_once_it_is_right(deployment: Deployment) -> None:
    deployment.settings["check_interval_s"] = 0.05
    assembly = deployment.assembly(serving=True)
    with capture_logs() as lines:
        async with asyncio.timeout(60), run_lifespans(assembly):
            [(level, reason)] = said(lines)
            assert (level, readiness(assembly)) == ("critical", 0)
            assert "vault.key is missing: there is no such file" in reason
            deployment.put_key("vault.key", ONE[1:])
            while len(lines) < 2:
                await asyncio.sleep(0.02)
            assert "neither 64 hex digits" in said(lines)[1][1]
            assert readiness(assembly) == 0
            deployment.put_key("vault.key", ONE)
            while readiness(assembly) == 0 or len(lines) < 3:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)

    assert [level for level, _ in said(lines)] == ["critical", "critical", "info"]
    assert ONE.hex()[2:] not in str(lines)


def test_readiness_of_the_server_does_not_hang_on_the_vault(deployment: Deployment) -> None:
    assert deployment.assembly(serving=True).services.pings == {}


def test_without_a_vault_there_is_no_such_command(tmp_path: Path) -> None:
    document = {"deployment": {"name": "t"}, "plugins": {}}
    assembly = assemble(
        parse_deployment(document, tmp_path / "precipiq.toml", {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=Terminal(),
        serving=False,
        installed=[],
    )

    assert list(assembly.of("commands")) == []


def test_status_counts_what_is_stored(deployment: Deployment) -> None:
    deployment.holder.stored = {
        "a": wrap_under(deployment, ONE),
        "b": wrap_under(deployment, OTHER),
        "c": wrap_under(deployment, OTHER),
    }
    before = dict(deployment.holder.stored)
    deployment.put_key("vault.key", OTHER)
    deployment.put_key("old.key", ONE)
    deployment.settings["previous_master_keys"] = [{"file": "old.key"}]
    done = deployment.run("status", "--json")

    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert key_id_of(OTHER).hex() in report["vault"]
    assert report["secrets"] == {"test secrets": {"current": 2, "stale": 1, "rewrapped": 0, "refused": 0}}
    assert "test secrets: 2 current, 1 stale" in deployment.run("status").stdout
    assert deployment.holder.stored == before


def test_status_tells_of_secrets_that_no_key_opens(deployment: Deployment) -> None:
    deployment.holder.stored = {"a": wrap_under(deployment, LOST)}
    deployment.put_key("vault.key", ONE)
    done = deployment.run("status", "--json")

    assert done.exit_code == 1
    assert json.loads(done.stdout)["secrets"]["test secrets"]["refused"] == 1
    assert f"test secrets: a: a secret is wrapped under the master key {key_id_of(LOST).hex()}" in done.stderr


@pytest.mark.parametrize("command", ["status", "rewrap"])
def test_a_vault_that_cannot_serve_is_told_and_changes_nothing(command: str, deployment: Deployment) -> None:
    deployment.holder.stored = {"a": wrap_under(deployment, ONE)}
    before = dict(deployment.holder.stored)
    done = deployment.run(command)

    assert "vault.key is missing" in str(done.exception)
    assert deployment.holder.stored == before


def test_rewrap_wraps_all_that_is_stale_and_can_be_repeated(deployment: Deployment) -> None:
    deployment.holder.stored = {
        "a": wrap_under(deployment, ONE),
        "b": wrap_under(deployment, LOST),
        "c": wrap_under(deployment, ONE),
        "d": wrap_under(deployment, OTHER),
        "e": wrap_under(deployment, ONE),
    }
    before = dict(deployment.holder.stored)
    deployment.holder.taken = {"e"}
    deployment.put_key("vault.key", OTHER)
    deployment.put_key("old.key", ONE)
    deployment.settings["previous_master_keys"] = [{"file": "old.key"}]

    first, again = deployment.run("rewrap", "--json"), deployment.run("rewrap", "--json")
    counts = [json.loads(done.stdout)["secrets"]["test secrets"] for done in (first, again)]
    assert counts == [
        {"current": 1, "stale": 1, "rewrapped": 2, "refused": 1},
        {"current": 3, "stale": 1, "rewrapped": 0, "refused": 1},
    ]
    assert (first.exit_code, again.exit_code) == (1, 1)
    assert "test secrets: b: a secret is wrapped under the master key" in first.stderr
    changed = {ref for ref, wrapped in deployment.holder.stored.items() if wrapped != before[ref]}
    assert changed == {"a", "c"}

    for ref in ("b", "e"):
        del deployment.holder.stored[ref]
    (deployment.folder / "old.key").unlink()
    deployment.settings["previous_master_keys"] = []
    done = deployment.run("rewrap")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (
        0,
        "test secrets: 3 current, 0 stale, 0 rewrapped, 0 refused",
    )
