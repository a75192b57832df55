"""The example plugin in an application of the test's own process: nothing is installed, only entry points are named."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from acme_plugin.service import Notes
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.registries import EntryKinds, EntryStoreDrivers
from precipiq_core.app import Application
from precipiq_core.boot import Assembly, assemble
from precipiq_core.deployment import parse_deployment
from precipiq_core.running import run_lifespans
from precipiq_ledger.service import LedgerService
from precipiq_ledger.verifier import Verifier
from precipiq_testkit.clock import ManualClock, SeededRandomness

INSTALLED = [
    EntryPoint("acme", "acme_plugin.plugin:AcmePlugin", "precipiq"),
    EntryPoint("ledger", "precipiq_ledger.plugin:LedgerPlugin", "precipiq"),
]
CHAIN = Chain("org_boot", "test")


class Console:
    is_terminal = False

    def say(self, text: str) -> None:
        raise AssertionError(text)


def boot(tmp_path: Path, driver: str = "jsonl") -> Assembly:
    document = {
        "deployment": {"name": "acme"},
        "secrets": {"master_key": {"file": "master.key"}, "create_master_key": True},
        "plugins": {"acme": {}, "ledger": {"driver": driver, "verify_inline_entries_max": 0}},
    }
    deployment = parse_deployment(document, tmp_path / "precipiq.toml", {})
    clock, randomness = ManualClock(), SeededRandomness()
    return assemble(
        deployment, clock=clock, randomness=randomness, console=Console(), serving=True, installed=INSTALLED
    )


def test_every_contribution_has_its_owner(tmp_path: Path) -> None:
    assembly = boot(tmp_path)
    Application(assembly)
    assert list(assembly.services.get(EntryStoreDrivers).by_name) == ["jsonl"]
    assert "acme_note" in assembly.services.get(EntryKinds).by_name
    assert [item.value.name for item in assembly.of("commands") if item.owner == "acme"] == ["acme"]
    assert [item.value.layer for item in assembly.of("middleware") if item.owner == "acme"] == ["app"]
    assert ("acme", "acme-signature") in [(item.owner, item.value) for item in assembly.of("secret_names")]
    paths = [item.value.path for item in assembly.of("routes") if item.owner == "acme"]
    assert paths == ["/acme/notes", "/acme/notes", "/acme/limits", "/acme/notes/lines", "/acme"]


def test_nothing_is_opened_before_the_lifespan(tmp_path: Path) -> None:
    Application(boot(tmp_path))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.anyio
async def test_the_ledger_runs_on_files_without_any_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # verifying processes unpickle its auditor
    for restart in range(2):
        assembly = boot(tmp_path)
        async with run_lifespans(assembly):
            notes = Notes(assembly.services.get(Ledger), 100)
            first = await notes.write(CHAIN, "ada", "remember", "key")
            assert first.seq == 1
            await notes.write(CHAIN, "ada", f"again {restart}", None)
            assert await notes.count(CHAIN) == 2 + restart
            auditor = assembly.services.get(LedgerService).store.auditor()
            verdict = await assembly.services.get(Verifier).verify(auditor, CHAIN)
            assert verdict.is_valid
            assert verdict.checked_count == 2 + restart
    assert sorted(path.suffix for path in (tmp_path / "data" / "entries").iterdir()) == ["", ".jsonl"]
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.anyio
async def test_a_driver_that_nobody_registered_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="jsonl"):
        async with run_lifespans(boot(tmp_path, driver="jsonll")):
            pass
