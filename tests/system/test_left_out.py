"""Deployments without one of our plugins, and with a stranger's in its place: each boots, and serves a request."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from precipiq_auth_keys.address_limiter import LocalWindows
from precipiq_contracts.auth import SCOPES, AddressLimiter, Authenticator, Principal, RateLimiter, RateState
from precipiq_contracts.chain import Chain
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.plans import PlanLimits, Plans
from precipiq_contracts.services import Services
from precipiq_core.app import Application
from precipiq_core.boot import Assembly, assemble
from precipiq_core.deployment import parse_deployment
from precipiq_core.discovery import DATABASES, PLUGINS, SERVERS, installed_plugins
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.running import run_lifespans
from precipiq_core.system import SystemClock, SystemRandomness
from tests.system.client import decision

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

OURS = [point for group in (PLUGINS, SERVERS, DATABASES) for point in installed_plugins(group)]
TABLES: dict[str, Any] = {
    "ledger": {},
    "auth_keys": {},
    "ws_stream": {},
    "vault_local": {"master_key": {"file": "vault.key"}, "create_master_key": True},
    "exports": {},
    "billing": {},
    "outcomes": {},
}
KEY = "stranger-key"
CHAIN = Chain("org_stranger", "test")


class Console:
    is_terminal = False

    def say(self, text: str) -> None:
        pass


class Stranger(PluginBase[PluginConfig]):
    """Serves a page in the place of the plugin that it replaces."""

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        return [Route(f"/{self.name}", self._page)]

    async def _page(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("mine")


class MyKeys(PluginBase[PluginConfig]):
    """One key and no limits; knows nothing of addresses."""

    name = "my_keys"
    provides: ClassVar[tuple[type, ...]] = (RateLimiter,)

    @hookimpl
    def provide(self, services: Services) -> None:
        services.provide(RateLimiter, self)

    @hookimpl
    def authenticators(self, services: Services) -> Sequence[Authenticator]:
        return [self]

    async def authenticate(self, credential: Credential) -> Principal | None:
        return Principal(CHAIN, "key_1", frozenset(SCOPES)) if credential.reveal() == KEY else None

    async def hit(self, chain: Chain, group: str) -> RateState:
        return RateState(group, 5, 1, 4, 1, 0.0)


class MyAddresses(PluginBase[PluginConfig]):
    name = "my_addresses"
    provides: ClassVar[tuple[type, ...]] = (AddressLimiter,)

    @hookimpl
    def provide(self, services: Services) -> None:
        services.provide(AddressLimiter, self)

    async def hit(self, name: str, address: str | None, quota: int, window_s: int) -> RateState:
        return RateState(name, quota, window_s, quota, window_s, 0.0)


class MyStream(Stranger):
    name = "my_stream"


class MyExports(Stranger):
    name = "my_exports"


class MyBilling(Stranger):
    name = "my_billing"
    provides: ClassVar[tuple[type, ...]] = (Plans,)

    @hookimpl
    def provide(self, services: Services) -> None:
        services.provide(Plans, self)

    def limits_of(self, org_id: str) -> PlanLimits:
        return PlanLimits()


class MyOutcomes(Stranger):
    name = "my_outcomes"


class MyOperations(Stranger):
    name = "my_operations"


STRANGERS = [MyKeys, MyAddresses, MyStream, MyExports, MyBilling, MyOutcomes, MyOperations]
IN_PLACE_OF = {
    "auth_keys": MyKeys,
    "ws_stream": MyStream,
    "exports": MyExports,
    "billing": MyBilling,
    "outcomes": MyOutcomes,
    "operations": MyOperations,
    "address_limits": MyAddresses,
}


def boot(folder: Path, **plugins: Any) -> Assembly:
    """The whole deployment with these tables changed; None: the table is left out."""
    tables = {name: table for name, table in {**TABLES, **plugins}.items() if table is not None}
    document = {
        "deployment": {"name": "t"},
        "database": {"migrate_at_start": True},
        "secrets": {"master_key": {"file": "master.key"}, "create_master_key": True},
        "plugins": tables,
    }
    strangers = [EntryPoint(each.name, f"{__name__}:{each.__name__}", PLUGINS) for each in STRANGERS]
    return assemble(
        parse_deployment(document, folder / "precipiq.toml", {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=Console(),
        serving=True,
        installed=[*OURS, *strangers],
    )


def problems(folder: Path, **plugins: Any) -> list[str]:
    with pytest.raises(DeploymentError) as caught:
        boot(folder, **plugins)
    return list(caught.value.problems)


async def statuses(assembly: Assembly, *requests: tuple[str, str]) -> list[int]:
    """What the deployment answers to these, with the stranger's key, while it runs."""
    app = Application(assembly)
    async with (
        run_lifespans(assembly),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http,
    ):
        headers = {"X-Precipiq-Key": KEY}
        return [
            (
                await http.request(method, path, headers=headers, json=decision() if method == "POST" else None)
            ).status_code
            for method, path in requests
        ]


WRITE, READ = ("POST", "/api/v1/decisions"), ("GET", "/api/v1/ledger/head")
OWN_PAGE = {
    "ws_stream": ("GET", "/api/v1/stream"),
    "exports": ("GET", "/api/v1/exports"),
    "billing": ("GET", "/api/v1/financial-events"),
    "outcomes": ("GET", "/api/v1/links"),
    "operations": ("GET", "/healthz"),
}


@pytest.mark.parametrize("name", OWN_PAGE)
async def test_a_plugin_that_is_left_out_takes_its_own_pages_away_and_no_others(tmp_path: Path, name: str) -> None:
    changes = {"auth_keys": None, "my_keys": {}, name: False if name == "operations" else None}
    assembly = boot(tmp_path, **changes)
    assert name not in assembly.plugins
    others = [page for other, page in OWN_PAGE.items() if other not in (name, "ws_stream")]
    answers = await statuses(assembly, OWN_PAGE[name], WRITE, READ, *others)
    assert answers == [404, 201, 200, *[200] * len(others)]


async def test_without_keys_everything_that_needs_one_answers_401_and_the_rest_is_served(tmp_path: Path) -> None:
    assembly = boot(tmp_path, auth_keys=None)
    assert assembly.services.owners[AddressLimiter] == "address_limits"
    assert await statuses(assembly, WRITE, READ, ("GET", "/healthz")) == [401, 401, 200]


@pytest.mark.parametrize("name", IN_PLACE_OF)
async def test_a_strangers_plugin_can_stand_in_the_place_of_ours(tmp_path: Path, name: str) -> None:
    stranger = IN_PLACE_OF[name]
    switched_off = False if name == "operations" else None
    changes: dict[str, Any] = {"auth_keys": None, "my_keys": {}, name: switched_off, stranger.name: {}}
    assembly = boot(tmp_path, **changes)
    assert name not in assembly.plugins
    assert stranger.name in assembly.plugins
    pages = [("GET", f"/{stranger.name}")] if issubclass(stranger, Stranger) else []
    assert await statuses(assembly, WRITE, READ, *pages) == [201, 200, *[200] * len(pages)]


def test_the_stream_counts_addresses_whoever_keeps_the_keys(tmp_path: Path) -> None:
    owners = [boot(tmp_path, **changes).services.owners[AddressLimiter] for changes in ({}, {"auth_keys": None})]
    assert owners == ["address_limits", "address_limits"]
    only_ledger = dict.fromkeys(("ws_stream", "exports"))
    assert "address_limits" not in boot(tmp_path, **only_ledger).plugins, "nobody asks for it"


async def test_the_settings_of_auth_keys_count_for_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(LocalWindows, "__init__", lambda self, clock, addresses_max: made.append(addresses_max))
    boot(tmp_path, auth_keys={"addresses_max": 7})
    boot(tmp_path, auth_keys=None, address_limits={"addresses_max": 9})
    assert made == [7, 9]


def test_two_providers_are_both_named(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, address_limits={}, my_addresses={})
    assert problem == "AddressLimiter is provided by both address_limits and my_addresses; enable one"


def test_a_missing_capability_names_the_plugins_that_have_it(tmp_path: Path) -> None:
    for plugin in ("exports", "billing"):
        missing = f"plugin {plugin} requires KeyVault, which no enabled plugin provides; "
        assert f"{missing}enable [plugins.vault_aws] or [plugins.vault_local]" in problems(tmp_path, vault_local=None)
    switched_off = problems(tmp_path, address_limits=False)
    assert switched_off == [
        "plugin ws_stream requires AddressLimiter, which no enabled plugin provides; "
        "enable [plugins.address_limits] or [plugins.my_addresses]"
    ]
