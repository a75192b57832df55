"""The life of an assembly: what a plugin raises at the start ends it; at the stop it is logged, and keeps nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.services import Services
from precipiq_core.running import run_lifespans

pytestmark = pytest.mark.anyio


class Parts:
    """Lifespans that note what becomes of them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.errors: list[BaseException] = []

    @asynccontextmanager
    async def part(
        self, name: str, *, at_start: Exception | None = None, at_stop: Exception | None = None
    ) -> AsyncIterator[None]:
        if at_start is not None:
            raise at_start
        self.seen.append(f"{name} started")
        try:
            yield
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.seen.append(f"{name} stopped")
            if at_stop is not None:
                raise at_stop


def assembly(*parts: AbstractAsyncContextManager[None]) -> Any:
    lifespans = [Contribution(f"plugin{number}", part) for number, part in enumerate(parts)]
    return SimpleNamespace(services=Services(), lifespans=lifespans)


async def test_what_a_plugin_raises_at_the_stop_is_logged_and_all_others_stop() -> None:
    parts, fault = Parts(), RuntimeError("a fault")
    with structlog.testing.capture_logs() as lines:
        async with run_lifespans(assembly(parts.part("a"), parts.part("b", at_stop=fault), parts.part("c"))):
            pass
    assert parts.seen == ["a started", "b started", "c started", "c stopped", "b stopped", "a stopped"]
    assert parts.errors == [], "a part is not told of the faults of those that stopped before it"
    assert [(line["event"], line["part"], line["exc_info"]) for line in lines] == [
        ("a part did not stop cleanly", "plugin1", fault)
    ]


async def test_what_ended_the_service_is_raised_and_not_what_came_after_it() -> None:
    parts = Parts()
    with (
        structlog.testing.capture_logs() as lines,
        pytest.raises(RuntimeError, match="while it served"),
    ):
        async with run_lifespans(assembly(parts.part("a"), parts.part("b", at_stop=ValueError("a fault")))):
            raise RuntimeError("while it served")
    assert [str(error) for error in parts.errors] == ["while it served"] * 2
    assert [line["event"] for line in lines] == ["a part did not stop cleanly"]


async def test_what_a_plugin_raises_at_the_start_ends_it_and_stops_those_that_had_started() -> None:
    parts = Parts()
    with structlog.testing.capture_logs() as lines, pytest.raises(RuntimeError, match="a fault") as caught:
        async with run_lifespans(assembly(parts.part("a"), parts.part("b", at_start=RuntimeError("a fault")))):
            raise AssertionError("it must not serve")
    assert caught.value.__notes__ == ["while starting plugin plugin1"]
    assert parts.seen == ["a started", "a stopped"]
    assert lines == []
