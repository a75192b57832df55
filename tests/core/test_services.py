"""Capabilities: one provider each, declared, found by type."""

from __future__ import annotations

from typing import Protocol

import pytest

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.services import Services


class Greeter(Protocol):
    def greet(self) -> str: ...


class English:
    def greet(self) -> str:
        return "hello"

    async def ping(self) -> None: ...


def test_a_provided_capability_is_found_by_its_type() -> None:
    services, english = Services(), English()
    services.provide(Greeter, english)

    assert services.get(Greeter) is services.find(Greeter) is english
    assert services.owners == {Greeter: "core"}


def test_a_second_provider_is_refused_with_both_names() -> None:
    services = Services()
    services.act_for("first", None)
    services.provide(Greeter, English())
    services.act_for("second", None)

    with pytest.raises(DeploymentError, match="Greeter is provided by both first and second"):
        services.provide(Greeter, English())


def test_only_what_was_declared_may_be_provided() -> None:
    services = Services()
    services.act_for("sly", frozenset((int,)))
    services.provide(int, 5)

    with pytest.raises(DeploymentError, match="plugin sly provides str without declaring it"):
        services.provide(str, "x")


def test_asking_for_what_nobody_provides_names_who_asked() -> None:
    services = Services()
    services.act_for("asker", frozenset())

    with pytest.raises(DeploymentError, match="plugin asker asks for Greeter, which nothing provides"):
        services.get(Greeter)
    assert services.find(Greeter) is None


def test_what_can_be_pinged_is_noted_by_its_capabilitys_name() -> None:
    services, english = Services(), English()
    services.provide(Greeter, english)
    services.provide(int, 5)

    assert services.pings == {"Greeter": english.ping}


def test_two_registries_share_nothing() -> None:
    one, other = Services(), Services()
    one.provide(int, 1)

    assert other.find(int) is None
