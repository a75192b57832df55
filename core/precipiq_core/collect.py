"""The only module that calls hooks: once, in boot order, each result kept with its owner's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, cast

import pluggy

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.settings import suggest
from precipiq_core.contribution import Contribution
from precipiq_core.hookspecs import HookSpecs
from precipiq_core.plugin import AnyPlugin, PluginBase
from precipiq_core.services import Services

T = TypeVar("T")

HOOK_NAMES = tuple(name for name in vars(HookSpecs) if not name.startswith("_"))


class Collector:
    """One pluggy manager for one application."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("precipiq")
        self._manager.add_hookspecs(HookSpecs)
        self._names: list[str] = []

    def register(self, name: str, plugin: AnyPlugin, problems: list[str]) -> None:
        """Register in boot order. Adds a sentence for each hook that is misspelt, unmarked or asynchronous."""
        problems.extend(_misdeclared(name, plugin))
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            problems.append(f"plugin {name}: {error}")
        self._names.append(name)

    def provide(self, services: Services) -> None:
        """Let each plugin register its capabilities; what it declares and what it registers must agree."""
        for name, call in self._calls("provide"):
            plugin = cast("AnyPlugin", self._manager.get_plugin(name))
            services.acting_as(name, frozenset(plugin.provides))
            self._guarded(name, "provide", call, services)
        missing = [
            f"plugin {name} declares {capability.__name__} in provides but did not provide it"
            for name in self._names
            for capability in cast("AnyPlugin", self._manager.get_plugin(name)).provides
            if capability not in services.owners
        ]
        if missing:
            raise DeploymentError(missing)

    def collect(self, hook: str, services: Services) -> list[Contribution[T]]:
        """The contributions of all plugins to that hook, in boot order."""
        found: list[Contribution[T]] = []
        for name, call in self._calls(hook):
            services.acting_as(name, frozenset())
            result = self._guarded(name, hook, call, services)
            if not isinstance(result, Sequence) or isinstance(result, str | bytes):
                raise DeploymentError(
                    [f"plugin {name}, hook {hook}: must return a sequence, not {type(result).__name__}"]
                )
            found.extend(Contribution(name, cast("T", value)) for value in result)
        return found

    def lifespans(self, services: Services) -> list[Contribution[AbstractAsyncContextManager[object]]]:
        """Each plugin's lifespan, in boot order."""
        found: list[Contribution[AbstractAsyncContextManager[object]]] = []
        for name, call in self._calls("lifespan"):
            services.acting_as(name, frozenset())
            lifespan = self._guarded(name, "lifespan", call, services)
            if not isinstance(lifespan, AbstractAsyncContextManager):
                raise DeploymentError([f"plugin {name}, hook lifespan: must return an asynchronous context manager"])
            found.append(Contribution(name, lifespan))
        return found

    def _calls(self, hook: str) -> list[tuple[str, Callable[[Services], object]]]:
        impls = {impl.plugin_name: impl.function for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        return [(name, impls[name]) for name in self._names if name in impls]

    @staticmethod
    def _guarded(name: str, hook: str, call: Callable[[Services], object], services: Services) -> object:
        try:
            return call(services)
        except DeploymentError:
            raise
        except Exception as error:
            raise DeploymentError([f"plugin {name}, hook {hook}: {type(error).__name__}: {error}"]) from error


def _misdeclared(name: str, plugin: AnyPlugin) -> list[str]:
    problems = []
    for attribute, function in inspect.getmembers(type(plugin), inspect.isfunction):
        marked = getattr(function, "precipiq_impl", None)
        if marked and attribute not in HOOK_NAMES:
            problems.append(f"plugin {name}: there is no hook {attribute!r}{suggest(attribute, HOOK_NAMES)}")
        if attribute in HOOK_NAMES and function is not getattr(PluginBase, attribute) and not marked:
            problems.append(f"plugin {name}: {attribute} overrides a hook without @hookimpl, so nothing would call it")
        if marked and inspect.iscoroutinefunction(function):
            problems.append(f"plugin {name}: hook {attribute} is a coroutine; hooks are synchronous and return objects")
        if marked and any(marked.get(option) for option in ("hookwrapper", "wrapper", "tryfirst", "trylast")):
            problems.append(
                f"plugin {name}: hook {attribute} uses wrapper, tryfirst or trylast; order comes from the graph"
            )
    return problems
