"""Tiny plugins and deployments for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import Assembly, assemble
from precipiq_core.deployment import parse_deployment
from precipiq_testkit.clock import ManualClock, SeededRandomness


class Point:
    """What discovery needs of an entry point; ``plugin``: the class, or what its import raises."""

    dist = None
    group = "precipiq"

    def __init__(self, name: str, plugin: object, value: str = "") -> None:
        self.name = name
        self.value = value or f"tiny:{name}"
        self._plugin = plugin

    def load(self) -> object:
        if isinstance(self._plugin, BaseException):
            raise self._plugin
        return self._plugin


class Console:
    is_terminal = False

    def say(self, text: str) -> None:
        raise AssertionError(text)


Boot = Callable[..., Assembly]


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """``boot(PluginClass, ..., config={"name": {...}})``: the assembly of a deployment that enables them all."""

    def booted(*plugins: Any, config: Mapping[str, Mapping[str, Any]] | None = None, **sections: Any) -> Assembly:
        points = [item if isinstance(item, Point) else Point(item.name, item) for item in plugins]
        tables = {point.name: dict((config or {}).get(point.name, {})) for point in points}
        document = {"deployment": {"name": "t"}, "plugins": tables, **sections}
        deployment = parse_deployment(document, tmp_path / "precipiq.toml", {})
        return assemble(
            deployment,
            clock=ManualClock(),
            randomness=SeededRandomness(),
            console=Console(),
            serving=False,
            installed=points,  # type: ignore[arg-type]
        )

    return booted


@pytest.fixture
def boot_problems(boot: Boot) -> Callable[..., list[str]]:
    """The same, for a deployment that cannot boot: its problems."""

    def problems(*plugins: Any, **options: Any) -> list[str]:
        with pytest.raises(DeploymentError) as caught:
            boot(*plugins, **options)
        return list(caught.value.problems)

    return problems


@pytest.fixture
def point() -> type[Point]:
    return Point
