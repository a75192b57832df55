"""Hooks: called once, in boot order, and never ignored in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import click
import pluggy
import pytest

from precipiq_contracts.database import Migration
from precipiq_contracts.hooks import Hooks, hookspec
from precipiq_contracts.services import Services
from precipiq_core.app import Application
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.running import run_lifespans

pytestmark = pytest.mark.anyio

Problems = Callable[..., list[str]]


class Tiny(PluginBase[PluginConfig]):
    name = "tiny"


class Capability:
    pass


def names(*given: str) -> Any:
    @hookimpl
    def secret_names(self: Any, services: Services) -> Sequence[str]:
        return list(given)

    return secret_names


def schemas(*given: str) -> Any:
    @hookimpl
    def migrations(self: Any, services: Services) -> Sequence[Migration]:
        return [Migration(name, Path(__file__).parent, {}) for name in given]

    return migrations


def plugin(plugin_name: str = "tiny", **members: Any) -> Any:
    return type("Made", (Tiny,), {"name": plugin_name, **members})


def test_contributions_keep_their_owners_name_in_boot_order(boot: Any) -> None:
    second = plugin("second", secret_names=names("b"), requires=(Capability,))
    first = plugin("first", secret_names=names("a", "c"), provides=(Capability,), provide=provides(Capability))

    assembly = boot(second, first)

    assert [(item.owner, item.value) for item in assembly.of("secret_names")] == [
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
    def secret_namez(self: Any, services: Services) -> Sequence[str]:
        return []

    problems = boot_problems(plugin(secret_namez=secret_namez))

    assert "plugin tiny: there is no hook 'secret_namez'; did you mean 'secret_names'?" in problems


def test_an_unmarked_hook_fails_the_boot(boot_problems: Problems) -> None:
    def secret_names(self: Any, services: Services) -> Sequence[str]:
        return []

    assert boot_problems(plugin(secret_names=secret_names)) == [
        "plugin tiny: secret_names overrides a hook without @hookimpl, so nothing would call it"
    ]


def test_a_coroutine_hook_fails_the_boot(boot_problems: Problems) -> None:
    @hookimpl
    async def secret_names(self: Any, services: Services) -> Sequence[str]:
        return []

    assert boot_problems(plugin(secret_names=secret_names)) == [
        "plugin tiny: hook secret_names is a coroutine; hooks are synchronous and return objects"
    ]


@pytest.mark.parametrize("option", ["tryfirst", "trylast", "wrapper", "hookwrapper"])
def test_an_order_of_its_own_fails_the_boot(boot_problems: Problems, option: str) -> None:
    def secret_names(self: Any, services: Services) -> Any:
        yield

    marked = pluggy.HookimplMarker("precipiq")(**{option: True})(secret_names)
    problems = boot_problems(plugin(secret_names=marked))

    assert any("order comes from the graph" in problem for problem in problems)


def test_a_hook_with_another_signature_fails_the_boot(boot_problems: Problems) -> None:
    @hookimpl
    def secret_names(self: Any, app: object) -> Sequence[str]:
        return []

    [problem] = boot_problems(plugin(secret_names=secret_names))

    assert problem.startswith("plugin tiny: ")
    assert "app" in problem


@pytest.mark.parametrize(
    "hook",
    ["provide", "secret_names", "routes", "middleware", "migrations", "lifespan", "commands", "wrapped_secrets"],
)
def test_a_hook_that_raises_names_the_plugin_the_hook_and_the_reason(boot_problems: Problems, hook: str) -> None:
    @hookimpl
    def failing(self: Any, services: Services) -> Any:
        raise LookupError("no such file")

    failing.__name__ = hook
    assert boot_problems(plugin(**{hook: failing})) == [f"plugin tiny, hook {hook}: LookupError: no such file"]


@pytest.mark.parametrize("value", [None, "names", 5, (item for item in ())])
def test_a_hook_must_return_a_sequence(boot_problems: Problems, value: object) -> None:
    @hookimpl
    def secret_names(self: Any, services: Services) -> Any:
        return value

    [problem] = boot_problems(plugin(secret_names=secret_names))

    assert problem == f"plugin tiny, hook secret_names: must return a sequence, not {type(value).__name__}"


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


def test_what_several_plugins_cannot_provide_is_told_at_once_and_not_what_follows_from_it(
    boot_problems: Problems,
) -> None:
    class Other:
        pass

    @hookimpl
    def provide(self: Any) -> None:
        raise LookupError(self.name)

    one = plugin("one", provides=(Capability,), provide=provide)
    other = plugin("other", provides=(Other,), provide=provide)
    needy = plugin("needy", requires=(Capability,), provide=provide)

    assert boot_problems(one, other, needy) == [
        "plugin one, hook provide: LookupError: one",
        "plugin other, hook provide: LookupError: other",
    ]


def test_a_hook_takes_any_of_its_arguments(boot: Any) -> None:
    @hookimpl
    def secret_names(self: Any) -> Sequence[str]:
        return ["token"]

    assembly = boot(plugin(secret_names=secret_names))

    assert [item.value for item in assembly.of("secret_names")] == ["token"]
    assert [(call.plugin, call.hook, call.result) for call in assembly.calls] == [("tiny", "secret_names", ["token"])]


class CupHooks:
    """Hooks of a made-up plugin."""

    @hookspec
    def cups(self, services: Services, sugar_g: int) -> Sequence[str]:
        return ()


class Owner(Tiny):
    name = "owner"
    owns: ClassVar[tuple[type, ...]] = (CupHooks,)

    def gather(self, hooks: Hooks, services: Services) -> None:
        self.found = hooks.collect("cups", sugar_g=7)


def test_a_plugin_calls_the_hooks_that_it_owns_with_arguments_of_its_own(boot: Any) -> None:
    @hookimpl
    def cups(self: Any, sugar_g: int) -> Sequence[str]:
        return [f"{self.name} {sugar_g}"]

    assembly = boot(plugin("first", cups=cups), Owner, plugin("second", cups=cups))

    found = assembly.plugins["owner"].found
    assert [(item.owner, item.value) for item in found] == [("first", "first 7"), ("second", "second 7")]


def test_a_hook_of_a_plugin_that_is_not_on_is_a_mistake_unless_it_is_optional(
    boot: Any, boot_problems: Problems
) -> None:
    def cups(self: Any) -> Sequence[str]:
        raise AssertionError("nobody calls it")

    assert boot_problems(plugin(cups=hookimpl(cups))) == ["plugin tiny: there is no hook 'cups'"]
    boot(plugin(cups=hookimpl(optionalhook=True)(cups)))


def test_two_owners_of_one_hook_fail_the_boot(boot_problems: Problems) -> None:
    other = plugin("other", owns=(CupHooks,))

    assert boot_problems(Owner, other) == ["hook 'cups' is specified by both owner and other"]


def test_an_owner_that_fails_with_what_it_gathered_is_named(boot_problems: Problems) -> None:
    class Clumsy(Owner):
        def gather(self, hooks: Hooks, services: Services) -> None:
            raise KeyError("cup")

    assert boot_problems(Clumsy) == ["plugin owner, gather: KeyError: 'cup'"]


def test_what_a_plugins_own_hook_gets_wrong_names_who_got_it_wrong(boot_problems: Problems) -> None:
    @hookimpl
    def cups(self: Any) -> Any:
        return None

    assert boot_problems(Owner, plugin(cups=cups)) == ["plugin tiny, hook cups: must return a sequence, not NoneType"]


def test_names_that_two_plugins_claim_fail_the_boot(boot_problems: Problems) -> None:
    @hookimpl
    def commands(self: Any, services: Services) -> Sequence[click.Command]:
        return [click.Command("serve")]

    one, two = plugin("one", migrations=schemas("note")), plugin("two", migrations=schemas("note"), commands=commands)

    assert boot_problems(one, two) == [
        "schema 'note' is registered by both one and two",
        "command 'serve' is contributed by both core and two",
    ]


def test_all_problems_of_all_plugins_are_listed_at_once(boot_problems: Problems, point: Any) -> None:
    def secret_names(self: Any, services: Services) -> Sequence[str]:
        return []

    problems = boot_problems(
        point("absent", ImportError("gone")),
        plugin("needy", requires=(Capability,)),
        plugin("unmarked", secret_names=secret_names),
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

    async with run_lifespans(boot(user, maker)):
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
        async with run_lifespans(boot(recording("first", log), plugin("broken", lifespan=lifespan))):
            log.append("serving")

    assert log == ["first starts", "first stops"]
    assert caught.value.__notes__ == ["while starting plugin broken"]


def test_two_applications_in_one_process_share_nothing(boot: Any) -> None:
    shared = plugin("shared", provides=(Capability,), provide=provides(Capability))
    one, other = boot(shared), boot(shared, plugin("extra", secret_names=names("extra")))
    Application(one), Application(other)

    assert one.plugins["shared"] is not other.plugins["shared"]
    assert one.services.get(Capability) is not other.services.get(Capability)
    assert list(one.of("secret_names")) == []
    assert "extra" not in one.plugins
