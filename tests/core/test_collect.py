"""Hooks: called once, in boot order, and never ignored in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import click
import pluggy
import pytest

from precipiq_contracts.chain import EntryKind
from precipiq_core.app import Application
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.running import running
from precipiq_core.services import Services

pytestmark = pytest.mark.anyio

Problems = Callable[..., list[str]]


class Tiny(PluginBase[PluginConfig]):
    name = "tiny"


class Capability:
    pass


def kinds(*names: str) -> Any:
    @hookimpl
    def entry_kinds(self: Any, services: Services) -> Sequence[EntryKind]:
        return [EntryKind(name, "") for name in names]

    return entry_kinds


def plugin(plugin_name: str = "tiny", **members: Any) -> Any:
    return type("Made", (Tiny,), {"name": plugin_name, **members})


def test_contributions_keep_their_owners_name_in_boot_order(boot: Any) -> None:
    second = plugin("second", entry_kinds=kinds("b"), requires=(Capability,))
    first = plugin("first", entry_kinds=kinds("a", "c"), provides=(Capability,), provide=provides(Capability))

    assembly = boot(second, first)

    assert [(item.owner, item.value.name) for item in assembly.kinds] == [
        ("first", "a"), ("first", "c"), ("second", "b"),
    ]  # fmt: skip


def provides(*capabilities: type) -> Any:
    @hookimpl
    def provide(self: Any, services: Services) -> None:
        for capability in capabilities:
            services.provide(capability, capability())

    return provide


def test_a_misspelt_hook_fails_the_boot_and_names_the_right_one(boot_problems: Problems) -> None:
    @hookimpl
    def entry_kindz(self: Any, services: Services) -> Sequence[EntryKind]:
        return []

    problems = boot_problems(plugin(entry_kindz=entry_kindz))

    assert "plugin tiny: there is no hook 'entry_kindz'; did you mean 'entry_kinds'?" in problems


def test_an_unmarked_hook_fails_the_boot(boot_problems: Problems) -> None:
    def entry_kinds(self: Any, services: Services) -> Sequence[EntryKind]:
        return []

    assert boot_problems(plugin(entry_kinds=entry_kinds)) == [
        "plugin tiny: entry_kinds overrides a hook without @hookimpl, so nothing would call it"
    ]


def test_a_coroutine_hook_fails_the_boot(boot_problems: Problems) -> None:
    @hookimpl
    async def entry_kinds(self: Any, services: Services) -> Sequence[EntryKind]:
        return []

    assert boot_problems(plugin(entry_kinds=entry_kinds)) == [
        "plugin tiny: hook entry_kinds is a coroutine; hooks are synchronous and return objects"
    ]


@pytest.mark.parametrize("option", ["tryfirst", "trylast", "wrapper", "hookwrapper"])
def test_an_order_of_its_own_fails_the_boot(boot_problems: Problems, option: str) -> None:
    def entry_kinds(self: Any, services: Services) -> Any:
        yield

    marked = pluggy.HookimplMarker("precipiq")(**{option: True})(entry_kinds)
    problems = boot_problems(plugin(entry_kinds=marked))

    assert any("order comes from the graph" in problem for problem in problems)


def test_a_hook_with_another_signature_fails_the_boot(boot_problems: Problems) -> None:
    @hookimpl
    def entry_kinds(self: Any, app: object) -> Sequence[EntryKind]:
        return []

    [problem] = boot_problems(plugin(entry_kinds=entry_kinds))

    assert problem.startswith("plugin tiny: ")
    assert "app" in problem


@pytest.mark.parametrize(
    "hook",
    ["provide", "entry_kinds", "routes", "middleware", "migrations", "lifespan", "commands", "wrapped_secrets"],
)
def test_a_hook_that_raises_names_the_plugin_the_hook_and_the_reason(boot_problems: Problems, hook: str) -> None:
    @hookimpl
    def failing(self: Any, services: Services) -> Any:
        raise LookupError("no such file")

    failing.__name__ = hook
    assert boot_problems(plugin(**{hook: failing})) == [f"plugin tiny, hook {hook}: LookupError: no such file"]


@pytest.mark.parametrize("value", [None, "kinds", 5, (item for item in ())])
def test_a_hook_must_return_a_sequence(boot_problems: Problems, value: object) -> None:
    @hookimpl
    def entry_kinds(self: Any, services: Services) -> Any:
        return value

    [problem] = boot_problems(plugin(entry_kinds=entry_kinds))

    assert problem == f"plugin tiny, hook entry_kinds: must return a sequence, not {type(value).__name__}"


def test_a_lifespan_must_be_an_asynchronous_context_manager(boot_problems: Problems) -> None:
    @hookimpl
    def lifespan(self: Any, services: Services) -> Any:
        return iter(())

    assert boot_problems(plugin(lifespan=lifespan)) == [
        "plugin tiny, hook lifespan: must return an asynchronous context manager"
    ]


@pytest.mark.parametrize("hook", ["routes", "lifespan", "secret_names"])
def test_who_asks_for_what_nothing_provides_is_named(boot_problems: Problems, hook: str) -> None:
    @hookimpl
    def ask(self: Any, services: Services) -> Any:
        return services.get(Capability)

    @hookimpl
    def secret_names(self: Any, services: Services) -> Sequence[str]:
        return ()

    asking, innocent = plugin("asking", **{hook: ask}), plugin("innocent", secret_names=secret_names)
    assert boot_problems(asking, innocent) == ["plugin asking asks for Capability, which nothing provides"]


def test_what_a_plugin_declares_and_provides_must_agree(boot_problems: Problems) -> None:
    silent = plugin("silent", provides=(Capability,))
    sly = plugin("sly", provide=provides(Capability))

    assert boot_problems(silent) == ["plugin silent declares Capability in provides but did not provide it"]
    assert boot_problems(sly) == ["plugin sly provides Capability without declaring it in provides"]


def test_names_that_two_plugins_claim_fail_the_boot(boot_problems: Problems) -> None:
    @hookimpl
    def commands(self: Any, services: Services) -> Sequence[click.Command]:
        return [click.Command("serve")]

    one, two = plugin("one", entry_kinds=kinds("note")), plugin("two", entry_kinds=kinds("note"), commands=commands)

    assert boot_problems(one, two) == [
        "entry kind 'note' is registered by both one and two",
        "command 'serve' is contributed by both core and two",
    ]


def test_all_problems_of_all_plugins_are_listed_at_once(boot_problems: Problems, point: Any) -> None:
    def entry_kinds(self: Any, services: Services) -> Sequence[EntryKind]:
        return []

    problems = boot_problems(
        point("absent", ImportError("gone")),
        plugin("needy", requires=(Capability,)),
        plugin("unmarked", entry_kinds=entry_kinds),
    )

    assert len(problems) == 3


def recording(name: str, log: list[str], **members: Any) -> Any:
    @hookimpl
    def lifespan(self: Any, services: Services) -> AbstractAsyncContextManager[object]:
        @asynccontextmanager
        async def run() -> Any:
            log.append(f"{name} starts")
            try:
                yield
            finally:
                log.append(f"{name} stops")

        return run()

    return plugin(name, lifespan=lifespan, **members)


async def test_lifespans_start_in_boot_order_and_stop_in_reverse(boot: Any) -> None:
    log: list[str] = []
    user = recording("user", log, requires=(Capability,))
    maker = recording("maker", log, provides=(Capability,), provide=provides(Capability))

    async with running(boot(user, maker)):
        log.append("serving")

    assert log == ["maker starts", "user starts", "serving", "user stops", "maker stops"]


async def test_a_start_that_fails_stops_what_had_started(boot: Any) -> None:
    log: list[str] = []

    @hookimpl
    def lifespan(self: Any, services: Services) -> AbstractAsyncContextManager[object]:
        @asynccontextmanager
        async def run() -> Any:
            raise OSError("disk full")
            yield

        return run()

    with pytest.raises(OSError, match="disk full") as caught:
        async with running(boot(recording("first", log), plugin("broken", lifespan=lifespan))):
            log.append("serving")

    assert log == ["first starts", "first stops"]
    assert caught.value.__notes__ == ["while starting plugin broken"]


def test_two_applications_in_one_process_share_nothing(boot: Any) -> None:
    shared = plugin("shared", provides=(Capability,), provide=provides(Capability))
    one, other = boot(shared), boot(shared, plugin("extra", entry_kinds=kinds("extra")))
    Application(one), Application(other)

    assert one.plugins["shared"] is not other.plugins["shared"]
    assert one.services.get(Capability) is not other.services.get(Capability)
    assert [item.value.name for item in one.kinds] == []
    assert "extra" not in one.plugins
