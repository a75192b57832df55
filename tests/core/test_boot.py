"""From a deployment to an assembly: everything that is wrong is said at once, and nothing is opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from precipiq_contracts.database import Database
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.services import Services
from precipiq_core.app import Application
from precipiq_core.boot import Assembly, assemble
from precipiq_core.deployment import load_deployment
from precipiq_core.discovery import DATABASES, SERVERS, installed_plugins
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.system import SystemClock, SystemRandomness


class Tea:
    """A capability."""


class Milk:
    """Another."""


class Config(PluginConfig):
    sugar_g: int = 5


@dataclass(frozen=True)
class Point:
    """An entry point that needs no installed distribution."""

    name: str
    plugin: Any
    value: str = "somewhere"
    dist: Any = None
    group: str = "precipiq"

    def load(self) -> Any:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


class Kettle(PluginBase[Config]):
    name = "kettle"
    Config = Config
    provides: ClassVar[tuple[type, ...]] = (Tea,)

    @hookimpl
    def provide(self, services: Services) -> None:
        services.provide(Tea, Tea())


class Cup(PluginBase[Config]):
    name = "cup"
    Config = Config
    requires: ClassVar[tuple[type, ...]] = (Tea,)

    @hookimpl
    def provide(self, services: Services) -> None:
        assert isinstance(services.get(Tea), Tea)

    @hookimpl
    def secret_names(self, services: Services) -> Sequence[str]:
        return ["drunk"]


class Silence:
    is_terminal = False

    def say(self, text: str) -> None: ...


def boot(tmp_path: Path, toml: str, *plugins: Any, environ: dict[str, str] | None = None) -> Assembly:
    path = tmp_path / "precipiq.toml"
    path.write_text('[deployment]\nname = "test"\n' + toml)
    points = [plugin if isinstance(plugin, Point) else Point(plugin.name, plugin) for plugin in plugins]
    ours = [*installed_plugins(SERVERS), *installed_plugins(DATABASES)]
    return assemble(
        load_deployment(path, environ or {}),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        console=Silence(),
        serving=False,
        installed=[*points, *ours],  # type: ignore[arg-type]
    )


def problems(tmp_path: Path, toml: str, *plugins: Any, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(DeploymentError) as caught:
        boot(tmp_path, toml, *plugins, environ=environ)
    return "\n".join(caught.value.problems)


def test_plugins_boot_in_the_order_of_what_they_need(tmp_path: Path) -> None:
    assembly = boot(tmp_path, "[plugins.cup]\n[plugins.kettle]\nsugar_g = 7\n", Cup, Kettle)

    assert list(assembly.plugins) == ["hypercorn", "kettle", "cup"]
    assert assembly.plugins["kettle"].config.sugar_g == 7
    assert [(item.owner, item.value) for item in assembly.of("secret_names")] == [("cup", "drunk")]
    Application(assembly)
    assert not (tmp_path / "data").exists(), "booting opens nothing"


def test_installed_is_not_enabled(tmp_path: Path) -> None:
    bad = Point("broken", RuntimeError("must not be imported"))
    assert list(boot(tmp_path, "[plugins.kettle]\n", Kettle, bad).plugins) == ["hypercorn", "kettle"]


def test_two_applications_share_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = boot(tmp_path / "a", "[plugins.kettle]\n", Kettle)
    second = boot(tmp_path / "b", "[plugins.kettle]\n", Kettle)
    assert first.services.get(Tea) is not second.services.get(Tea)
    assert first.plugins["kettle"] is not second.plugins["kettle"]


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    text = problems(
        tmp_path,
        "[plugins.cup]\n[plugins.kettel]\n[plugins.broken]\n[plugins.kettle2]\nsugar_mg = 1\n",
        Cup,
        Kettle,
        Point("broken", ImportError("no such module")),
        Point("kettle2", type("Second", (Kettle,), {"name": "kettle2"})),
    )
    assert "plugins.kettel: no installed plugin has that name; did you mean 'kettle'?" in text
    assert "plugins.broken: cannot be imported: ImportError: no such module" in text
    assert "plugins.kettle2.sugar_mg: unknown key; did you mean 'sugar_g'?" in text


def test_a_missing_capability_names_who_needs_it(tmp_path: Path) -> None:
    assert "plugin cup requires Tea, which no enabled plugin provides" in problems(tmp_path, "[plugins.cup]\n", Cup)


def test_two_providers_are_refused(tmp_path: Path) -> None:
    other = type("Other", (Kettle,), {"name": "other"})
    text = problems(tmp_path, "[plugins.kettle]\n[plugins.other]\n", Kettle, other)
    assert "Tea is provided by both kettle and other" in text


def test_a_circle_is_named(tmp_path: Path) -> None:
    first = type("First", (PluginBase,), {"name": "first", "provides": (Tea,), "requires": (Milk,)})
    second = type("Second", (PluginBase,), {"name": "second", "provides": (Milk,), "requires": (Tea,)})
    assert "in a circle" in problems(tmp_path, "[plugins.first]\n[plugins.second]\n", first, second)


def test_installed_twice_is_an_error(tmp_path: Path) -> None:
    twice = [Point("kettle", Kettle, value="a:A"), Point("kettle", Kettle, value="b:B")]
    assert "installed twice" in problems(tmp_path, "[plugins.kettle]\n", *twice)


def test_a_plugin_for_another_interface_says_what_to_upgrade(tmp_path: Path) -> None:
    future = type("Future", (Kettle,), {"api": 99})
    assert "upgrade precipiq-core" in problems(tmp_path, "[plugins.kettle]\n", future)


async def _coroutine(self: Any, services: Services) -> Sequence[str]:
    return []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"secret_name": hookimpl(lambda self, services: [])}, "no hook 'secret_name'; did you mean 'secret_names'?"),
        ({"secret_names": lambda self, services: []}, "overrides a hook without @hookimpl"),
        ({"secret_names": hookimpl(_coroutine)}, "is a coroutine"),
        ({"secret_names": hookimpl(tryfirst=True)(lambda self, services: [])}, "tryfirst"),
        ({"secret_names": hookimpl(lambda self, services: {})}, "must return a sequence, not dict"),
        ({"secret_names": hookimpl(lambda self, services: 1 / 0)}, "hook secret_names: ZeroDivisionError"),
        ({"lifespan": hookimpl(lambda self, services: 7)}, "must return an asynchronous context manager"),
        ({"provide": hookimpl(lambda self, services: None)}, "declares Tea in provides but did not provide it"),
        ({"provides": ()}, "provides Tea without declaring it"),
        ({"__init__": lambda self, config: 1 / 0}, "plugins.kettle: ZeroDivisionError"),
    ],
)
def test_a_mistake_in_a_plugin_is_said_in_a_sentence(tmp_path: Path, attributes: dict[str, Any], message: str) -> None:
    mistaken = type("Mistaken", (Kettle,), attributes)
    assert message in problems(tmp_path, "[plugins.kettle]\n", mistaken)


def test_a_capability_nobody_declared_is_not_handed_out(tmp_path: Path) -> None:
    asking = type("Asking", (Kettle,), {"secret_names": hookimpl(lambda self, services: [services.get(Database)])})
    assert "asks for Database, which nothing provides" in problems(tmp_path, "[plugins.kettle]\n", asking)


def test_a_lifespan_may_be_empty(tmp_path: Path) -> None:
    idle = type("Idle", (Kettle,), {"lifespan": hookimpl(lambda self, services: nullcontext())})
    assert len(boot(tmp_path, "[plugins.kettle]\n", idle).lifespans) == 1


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[servre]\n", "[servre]: unknown section; did you mean 'server'?"),
        ("[server]\nbnid = 'x'\n", "server.bnid: unknown key; did you mean 'bind'?"),
        ("[server]\nbind = 'nowhere'\n", "server.bind:"),
        ("[http]\nbody_bytes_max = 'x'\n", "http.body_bytes_max:"),
        ("[secrets]\nmaster_key = 'the-secret-itself'\n", "never the secret itself"),
        ("[secrets]\nmaster_key = { env = 'A', file = 'b' }\n", "exactly one of"),
        ("[database]\nurl = 'mysql://x'\n", "database.url"),
        ("[plugins]\nKettle = {}\n", "lower-case letters"),
    ],
)
def test_a_mistake_in_the_deployment_is_said_in_a_sentence(tmp_path: Path, toml: str, message: str) -> None:
    text = problems(tmp_path, toml)
    assert message in text
    assert "the-secret-itself" not in text


def test_environment_variables_override_by_one_rule(tmp_path: Path) -> None:
    environ = {
        "PRECIPIQ__SERVER__BIND": "127.0.0.1:9999",
        "PRECIPIQ__HTTP__BODY_BYTES_MAX": "2048",
        "PRECIPIQ__PLUGINS__KETTLE__SUGAR_G": "9",
        "PRECIPIQ_DATA_DIR": str(tmp_path / "elsewhere"),
    }
    assembly = boot(tmp_path, "[plugins.kettle]\n", Kettle, environ=environ)
    assert assembly.server.bind == "127.0.0.1:9999"
    assert assembly.deployment.http.body_bytes_max == 2048
    assert assembly.plugins["kettle"].config.sugar_g == 9
    assert assembly.deployment.data_dir == tmp_path / "elsewhere"


@pytest.mark.parametrize("variable", ["PRECIPIQ__SERVER", "PRECIPIQ__PLUGINS__CUP__X", "PRECIPIQ__SERVER__NOPE"])
def test_a_variable_that_overrides_nothing_is_an_error(tmp_path: Path, variable: str) -> None:
    assert problems(tmp_path, "[plugins.kettle]\n", Kettle, environ={variable: "1"})
