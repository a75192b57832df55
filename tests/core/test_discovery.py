"""Which plugins are loaded, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from precipiq_contracts.errors import DeploymentError
from precipiq_core.discovery import Installed, installed_plugins
from precipiq_core.plugin import PluginBase, PluginConfig


class Notes(PluginBase[PluginConfig]):
    name = "notes"


def loaded(enabled: list[str], *points: Any) -> tuple[dict[str, Any], list[str]]:
    problems: list[str] = []
    return dict(Installed(points).load_all(enabled, problems)), problems


def test_only_what_is_enabled_is_imported(point: Any) -> None:
    boom = point("unused", RuntimeError("imported"))

    assert loaded(["notes"], point("notes", Notes), boom) == ({"notes": Notes}, [])


def test_an_absent_plugin_suggests_the_nearest_installed_one(point: Any) -> None:
    assert loaded(["notse"], point("notes", Notes)) == (
        {},
        ["plugins.notse: no installed plugin has that name; did you mean 'notes'?"],
    )


def test_a_plugin_installed_twice_names_both(point: Any) -> None:
    twice = [point("notes", Notes, "one:Notes"), point("notes", Notes, "two:Notes")]

    assert loaded(["notes"], *twice) == ({}, ["plugins.notes: installed twice, by one:Notes and two:Notes"])
    assert loaded(["notes"], twice[0], twice[0]) == ({"notes": Notes}, [])


@pytest.mark.parametrize("error", [ImportError("no module x"), SyntaxError("bad"), ZeroDivisionError("at import")])
def test_an_import_that_fails_in_any_way_is_a_problem_with_its_reason(point: Any, error: Exception) -> None:
    classes, [problem] = loaded(["notes"], point("notes", error))

    assert not classes
    assert problem.startswith(f"plugins.notes: cannot be imported: {type(error).__name__}: ")
    assert str(error) in problem


@pytest.mark.parametrize("candidate", [object(), int, "Notes", Notes(PluginConfig())])
def test_what_is_no_plugin_class_is_refused(point: Any, candidate: object) -> None:
    assert "is not a subclass of PluginBase" in loaded(["notes"], point("notes", candidate))[1][0]


def test_the_class_and_its_entry_point_must_agree_on_the_name(point: Any) -> None:
    class Nameless(PluginBase[PluginConfig]):
        pass

    assert loaded(["other"], point("other", Notes))[1] == ["plugins.other: the class calls itself 'notes'"]
    assert loaded(["x"], point("x", Nameless))[1] == ["plugins.x: the class calls itself None"]


@pytest.mark.parametrize(("version", "advice"), [(2, "upgrade precipiq-core"), (0, "upgrade the plugin")])
def test_another_interface_version_says_what_to_upgrade(point: Any, version: int, advice: str) -> None:
    class Other(PluginBase[PluginConfig]):
        name = "other"
        api: ClassVar[int] = version

    [problem] = loaded(["other"], point("other", Other))[1]

    assert problem == f"plugins.other: written for plugin interface {version}, this core has 1: {advice}"


def test_every_problem_is_listed_at_once(point: Any) -> None:
    points = [point("notes", Notes), point("broken", ImportError("x")), point("wrong", int)]

    classes, problems = loaded(["absent", "notes", "broken", "wrong"], *points)

    assert list(classes) == ["notes"]
    assert [problem.partition(":")[0] for problem in problems] == ["plugins.absent", "plugins.broken", "plugins.wrong"]


def test_the_repositorys_plugins_are_installed() -> None:
    assert {"ledger", "auth_keys"} <= {item.name for item in installed_plugins()}


def test_a_constructor_that_fails_is_a_problem_beside_the_others(boot_problems: Callable[..., list[str]]) -> None:
    class Fragile(PluginBase[PluginConfig]):
        name = "fragile"

        def __init__(self, config: PluginConfig) -> None:
            raise KeyError("HOME")

    class Strict(PluginBase[PluginConfig]):
        name = "strict"

        def __init__(self, config: PluginConfig) -> None:
            raise DeploymentError(["plugins.strict: one", "plugins.strict: two"])

    assert boot_problems(Fragile, Strict, Notes, config={"notes": {"x": 1}}) == [
        "plugins.notes.x: unknown key",
        "plugins.fragile: KeyError: 'HOME'",
        "plugins.strict: one",
        "plugins.strict: two",
    ]
