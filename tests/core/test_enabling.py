"""Which plugins are on: those that the deployment names, and the server, the database and operations without a name."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from precipiq_contracts.database import Database, DatabaseSettings
from precipiq_contracts.server import Server, ServerSettings
from precipiq_contracts.services import Services
from precipiq_core.deployment import parse_deployment
from precipiq_core.discovery import DATABASES, PLUGINS, SERVERS, Installed, installed_plugins
from precipiq_core.enabling import Enabled, enable
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl

OURS = [point for group in (PLUGINS, SERVERS, DATABASES) for point in installed_plugins(group)]


class PondSettings(DatabaseSettings):
    depth_m: int = 3


class Pond(PluginBase[PondSettings]):
    """A database of a third party."""

    name = "pond"
    Config = PondSettings
    provides: ClassVar[tuple[type, ...]] = (Database,)

    @hookimpl
    def provide(self, services: Services) -> None:
        services.provide(Database, self)  # type: ignore[arg-type]


class BellSettings(ServerSettings):
    loudness: int = 1


class Bell(PluginBase[BellSettings]):
    """A server of a third party."""

    name = "bell"
    Config = BellSettings
    provides: ClassVar[tuple[type, ...]] = (Server,)


class Notes(PluginBase[PluginConfig]):
    name = "notes"


def points(*groups_and_names: str) -> list[EntryPoint]:
    """``databases:pond`` and the like, of the classes here."""
    values = {"pond": "Pond", "bell": "Bell", "notes": "Notes"}
    return [
        EntryPoint(
            name, f"{__name__}:{values[name]}", {"plugins": PLUGINS, "databases": DATABASES, "servers": SERVERS}[group]
        )
        for group, _, name in (each.partition(":") for each in groups_and_names)
    ]


def enabled(tmp_path: Path, installed: list[EntryPoint], **document: Any) -> tuple[Enabled, list[str]]:
    deployment = parse_deployment({"deployment": {"name": "t"}, **document}, tmp_path / "precipiq.toml", {})
    problems = [*deployment.problems]
    return enable(deployment, Installed(installed), problems), problems


def test_server_and_operations_are_on_without_a_name(tmp_path: Path) -> None:
    found, problems = enabled(tmp_path, OURS)

    assert (list(found.classes), problems) == (["hypercorn", "operations"], [])
    assert found.server.bind == "127.0.0.1:8000"


def test_operations_can_be_switched_off(tmp_path: Path) -> None:
    assert list(enabled(tmp_path, OURS, plugins={"operations": False})[0].classes) == ["hypercorn"]


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({}, "sqlite"),
        ({"url": "sqlite:///x.db"}, "sqlite"),
        ({"url": "postgresql://precipiq@localhost/x"}, "postgres"),
        ({"url": "postgres://precipiq@localhost/x"}, "postgres"),
        ({"url": "pond://deep"}, "pond"),
    ],
)
def test_the_url_says_which_plugin_keeps_the_database(tmp_path: Path, table: dict[str, Any], name: str) -> None:
    found, problems = enabled(tmp_path, [*OURS, *points("databases:pond")], database=table)

    assert (list(found.classes), problems) == (["hypercorn", name, "operations"], [])


@pytest.mark.parametrize("url", ["mysql://x", "default", "default:x", "precipiq.db", ":"])
def test_a_url_that_no_plugin_answers_to_names_those_that_do(tmp_path: Path, url: str) -> None:
    _, [problem] = enabled(tmp_path, OURS, database={"url": url})

    assert problem.startswith("database.url: there is no database for the scheme ")
    assert problem.endswith(" (known: postgres, postgresql, sqlite)")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?mode=ro", "sqlite:x.db"])
def test_an_address_that_is_no_file_is_refused(tmp_path: Path, url: str) -> None:
    _, [problem] = enabled(tmp_path, OURS, database={"url": url})

    assert problem == "database.url: write sqlite:///file.db or sqlite:////folder/file.db"


def test_a_deployment_may_keep_the_settings_of_the_other_kind_of_database(tmp_path: Path) -> None:
    found, problems = enabled(tmp_path, OURS, database={"connections_max": 5, "readers_max": 2, "retry_s": 1.0})

    assert problems == []
    assert found.settings["sqlite"].readers_max == 2  # type: ignore[attr-defined]
    _, problems = enabled(tmp_path, OURS, database={"conections_max": 5, "readrs_max": 2})
    assert problems == [
        "database.conections_max: unknown key; did you mean 'group_rows_max'?",
        "database.readrs_max: unknown key; did you mean 'readers_max'?",
    ]


def test_who_names_a_provider_gets_no_other_and_its_settings_stand_in_the_section(tmp_path: Path) -> None:
    theirs = [*OURS, *points("plugins:pond", "plugins:bell", "servers:bell")]
    document = {"plugins": {"pond": {}, "bell": {}}, "server": {"loudness": 7}, "database": {"url": "x", "depth_m": 9}}
    found, problems = enabled(tmp_path, theirs, **document)

    assert (list(found.classes), problems) == (["bell", "pond", "operations"], [])
    assert found.server.loudness == 7  # type: ignore[attr-defined]
    assert found.settings["pond"].depth_m == 9  # type: ignore[attr-defined]
    document["plugins"] = {"pond": {"depth_m": 1}, "bell": {}}
    assert enabled(tmp_path, theirs, **document)[1] == ["plugins.pond: its settings stand in [database]"]


def test_of_two_installed_servers_the_deployment_names_one(tmp_path: Path) -> None:
    _, [problem] = enabled(tmp_path, [*OURS, *points("servers:bell")])

    assert problem == "server: bell and hypercorn are installed; enable one: [plugins.bell]"


def test_without_any_server_what_core_needs_of_its_section_is_checked(tmp_path: Path) -> None:
    found, problems = enabled(tmp_path, [], server={"bind": "[::1]:9", "drain_timeout_s": 3})

    assert (found.server.bind, problems) == ("[::1]:9", [])
    assert enabled(tmp_path, [], server={"bind": "nowhere"})[1][0].startswith("server.bind: ")


def test_paths_of_certificates_start_at_the_data_folder(tmp_path: Path) -> None:
    server = {"tls": {"certificate_file": "c.pem", "key_file": "/k.pem"}}
    tls = enabled(tmp_path, OURS, server=server)[0].server.tls  # type: ignore[attr-defined]

    assert (tls.certificate_file, tls.key_file) == (tmp_path / "data" / "c.pem", Path("/k.pem"))


def test_mistakes_of_the_file_and_of_plugins_are_told_at_once(tmp_path: Path) -> None:
    _, problems = enabled(
        tmp_path,
        [*OURS, *points("plugins:notes")],
        http={"depth_max": "deep"},
        serverr={},
        server={"bnd": "x", "tls": {"certificate_fil": "a", "key_file": "b"}},
        database={"readers_max": 0},
        plugins={"notes": {"x": 1}, "absent": {}},
    )
    file = f"{tmp_path / 'precipiq.toml'}: "
    starts = [
        f"{file}[serverr]: unknown section; did you mean 'server'?",
        f"{file}http.depth_max: ",
        "server.bnd: unknown key; did you mean 'bind'?",
        "server.tls.certificate_file: ",
        "server.tls.certificate_fil: unknown key; did you mean 'certificate_file'?",
        "database.readers_max: ",
        "plugins.absent: no installed plugin has that name",
        "plugins.notes.x: unknown key",
    ]
    assert len(problems) == len(starts)
    for start in starts:
        assert [problem for problem in problems if problem.startswith(start)], (start, problems)
