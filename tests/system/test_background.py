"""The background of a full deployment: a fault in any of its tasks is logged, told by ``/readyz``, and ends none."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from precipiq_contracts.background import Background, Work
from precipiq_core.app import Application
from precipiq_core.background import BackgroundTasks
from precipiq_core.boot import assemble
from precipiq_core.deployment import load_deployment
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemRandomness
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EVENTUALLY_S = 30.0
SOON_S = 0.05
DAY_S = 86_400.0

TASKS = {
    "auth_keys.keys",
    "auth_keys.redis",
    "billing.deliveries",
    "billing.endpoints",
    "billing.left_over",
    "billing.plans",
    "exports.runner",
    "exports.upkeep",
    "ledger.adoption",
    "ledger.checkpoints",
    "ledger.follower_sweep",
    "ledger.clock",
    "ledger.integrity",
    "ledger.rows",
    "ledger.usage",
    "ledger.sweep",
    "ledger.followers",
    "ledger.followers_behind",
    "outcomes.estimates",
    "outcomes.links",
    "vault_local.watch",
    "ws_stream.keys",
    "ws_stream.sweep",
}
TASKS_OF = {
    "sqlite": {"sqlite.watch", "sqlite.erasure", "ledger.indexes"},
    "postgres": {
        "ledger.checkpoint_exchange",
        "postgres.listen",
        "postgres.look",
        "postgres.tell",
    },
}

PLANS = """
[plugins.billing.plans]
webhook_secret = { env = "PLANS_SECRET" }
default = "free"

[plugins.billing.plans.tiers.free]
"""
SETTINGS = {
    "AUTH_KEYS__RATE_LIMIT_REDIS_URL": "redis://127.0.0.1:1/0",  # nobody is there
    "LEDGER__CLOCK_AHEAD_MAX_S": "1e9",  # the clock stands still, that of PostgreSQL does not
    **dict.fromkeys(
        (
            "LEDGER__CHECKPOINT_INTERVAL_S",
            "LEDGER__CLOCK_WATCH_INTERVAL_S",
            "LEDGER__FOLLOWER_SWEEP_S",
            "LEDGER__SWEEP_INTERVAL_S",
            "LEDGER__WATCH_POLL_S",
            "AUTH_KEYS__REVOCATION_POLL_S",
            "WS_STREAM__KEY_CHECK_INTERVAL_S",
            "VAULT_LOCAL__CHECK_INTERVAL_S",
            "EXPORTS__POLL_S",
            "EXPORTS__UPKEEP_INTERVAL_S",
            "BILLING__SEAL_RETRY_S",
            "BILLING__PLANS__REFRESH_S",
            "OUTCOMES__ESTIMATE_INTERVAL_S",
            "OUTCOMES__CORRELATION__INTERVAL_S",
        ),
        str(SOON_S),
    ),
}
CONSTANTS = (
    "precipiq_auth_keys.redis_link.PAUSE_S",
    "precipiq_ledger.checkpoint_exchange.EXCHANGE_INTERVAL_S",
    "precipiq_postgres.entries.watch._IDLE_S",
)


class Sabotage(BackgroundTasks):
    """The background of a deployment in which any task can be made to fail."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.broken: set[str] = set()

    def __call__(self, name: str, work: Work, **options: Any) -> AbstractAsyncContextManager[None]:
        async def round_of_it() -> None:
            if name in self.broken:
                raise KeyError(f"sabotage of {name}")
            await work()

        return super().__call__(name, round_of_it, **options)


class Console:
    is_terminal = False

    def say(self, text: str) -> None: ...


class Deployment:
    """A served deployment of all plugins, in this process, by a clock that stands still."""

    def __init__(self, app: Application, clock: ManualClock, background: Sabotage) -> None:
        self.clock = clock
        self.background = background
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")

    async def failed_parts(self) -> set[str]:
        """What ``/readyz`` says."""
        answer = await self.http.get("/readyz")
        parts = answer.json()["parts"]
        failed = {name for name, state in parts.items() if state != "ok"}
        assert answer.status_code == (503 if failed else 200)
        assert set(self.background.pings) < set(parts)
        return failed

    async def until_failed(self, *names: str) -> None:
        """Wait until ``/readyz`` names just these."""
        failed: set[str] = set()
        try:
            async with asyncio.timeout(EVENTUALLY_S):
                while (failed := await self.failed_parts()) != set(names):
                    await asyncio.sleep(SOON_S)
        except TimeoutError:
            pytest.fail(f"/readyz names {sorted(failed)} rather than {sorted(names)}")


@pytest.fixture
async def deployment(
    server_database: PostgresDatabase | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    config = ServerProcess(tmp_path, postgres=server_database).config
    config.write_text(config.read_text() + PLANS)
    for constant in CONSTANTS:
        monkeypatch.setattr(constant, SOON_S)
    monkeypatch.setattr("precipiq_core.boot.BackgroundTasks", Sabotage)
    overrides = {f"PRECIPIQ__PLUGINS__{name}": value for name, value in SETTINGS.items()}
    monkeypatch.setenv("PLANS_SECRET", "whsec_of_the_operator")
    async with served(config, overrides) as made:
        yield made


@asynccontextmanager
async def served(config: Path, overrides: dict[str, str]) -> AsyncIterator[Deployment]:
    clock = ManualClock()
    assembly = assemble(
        load_deployment(config, {**os.environ, **overrides}),
        clock=clock,
        randomness=SystemRandomness(),
        console=Console(),
        serving=True,
    )
    background = assembly.services.get(Background)
    assert isinstance(background, Sabotage)
    app = Application(assembly)
    async with run_lifespans(assembly):
        made = Deployment(app, clock, background)
        async with made.http:
            yield made


async def test_a_fault_in_any_task_is_told_and_ends_none(deployment: Deployment, database: str) -> None:
    background = deployment.background
    names = sorted(background.pings)
    assert set(names) == TASKS | TASKS_OF[database]
    await deployment.until_failed()
    for name in names:
        with structlog.testing.capture_logs() as lines:
            background.broken.add(name)
            await until_said(lines, name, "error")
            deployment.clock.advance(DAY_S)
            await deployment.until_failed(name)
            background.broken.discard(name)
            await until_said(lines, name, "info")
            await deployment.until_failed()
        (first, *_) = (line for line in lines if line.get("task") == name)
        assert isinstance(first["exc_info"], KeyError), "with its traceback"
        assert f'precipiq_background_failures_total{{task="{name}"}}' in (await deployment.http.get("/metrics")).text


async def until_said(lines: Any, name: str, level: str) -> None:
    try:
        async with asyncio.timeout(EVENTUALLY_S):
            while not any((line.get("task"), line["log_level"]) == (name, level) for line in lines):
                await asyncio.sleep(SOON_S)
    except TimeoutError:
        pytest.fail(f"no line of level {level} tells of {name}")


def test_a_last_step_that_fails_is_logged_and_the_stop_is_clean(server: ServerProcess) -> None:
    folder = server.data_dir / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("no folder any more")
    assert server.stop() == 0
    (line,) = (line for line in server.log_lines() if line["event"].startswith("the last step of a task"))
    assert (line["task"], line["error"], line["level"]) == ("ledger.checkpoints", "NotADirectoryError", "error")
    assert server.log_lines()[-1]["event"] == "stopped"
