"""The only module that lets pluggy call hooks: once, plugin by plugin in boot order, each result with its owner."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

import pluggy

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.hooks import PROJECT
from precipiq_contracts.services import Services
from precipiq_core.plugin import AnyPlugin, PluginBase
from precipiq_core.settings import suggest


@dataclass(frozen=True, slots=True)
class HookCall:
    """One call of a hook. ``result``: the plugin's return value, None after an exception; of ``provide``: the types."""

    plugin: str
    hook: str
    result: object

    @property
    def names(self) -> list[str]:
        """A name for each contribution, for people; empty for a hook without any."""
        return [_name(value) for value in self.result] if isinstance(self.result, Sequence) else []


class Collector:
    """One pluggy manager for one application. ``calls``: each call of a hook, in order."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(PluginBase)
        self._manager.add_hookcall_monitoring(lambda *_: None, self._note)
        self._specified: dict[str, str] = dict.fromkeys(_specs(PluginBase), "core")
        self._plugins: dict[str, AnyPlugin] = {}
        self._failed: set[str] = set()
        self.calls: list[HookCall] = []

    def register(
        self, plugins: Mapping[str, AnyPlugin], classes: Mapping[str, type[AnyPlugin]], problems: list[str]
    ) -> None:
        """Register all, in boot order. Adds a sentence for each hook that is misspelt, unmarked or asynchronous.

        ``classes``: of all enabled plugins, even with wrong settings, because their hooks are known.
        """
        for name, owner in classes.items():
            for spec in owner.owns:
                self._add_specs(name, spec, problems)
        for name, plugin in plugins.items():
            problems.extend(self._find_misdeclared(name, plugin))
            try:
                self._manager.register(plugin, name)
            except pluggy.PluginValidationError as error:
                problems.append(f"plugin {name}: {'; '.join(str(error).splitlines())}")
            else:
                self._plugins[name] = plugin
        if not problems:
            self._manager.check_pending()

    def _add_specs(self, owner: str, spec: type, problems: list[str]) -> None:
        claimed = [hook for hook in _specs(spec) if hook in self._specified]
        problems += [f"hook {hook!r} is specified by both {self._specified[hook]} and {owner}" for hook in claimed]
        if not _specs(spec):
            problems.append(f"plugin {owner}: {spec.__name__} in owns specifies no hook")
        elif not claimed:
            self._specified |= dict.fromkeys(_specs(spec), owner)
            self._manager.add_hookspecs(spec)

    def provide(self) -> None:
        """Let each plugin register its capabilities; its declaration and its registrations must agree.

        Raises ``DeploymentError`` with the faults of all plugins; a plugin that needs a capability whose provider
        failed is skipped.
        """
        problems: list[str] = []
        failed: set[type] = set()
        for name, plugin in self._plugins.items():
            self._services.act_for(name, frozenset(plugin.provides))
            try:
                if failed.isdisjoint((*plugin.requires, *plugin.optional)):
                    self._call(name, "provide")
                else:
                    failed.update(plugin.provides)
            except DeploymentError as error:
                problems.extend(error.problems)
                failed.update(plugin.provides)
        problems += [
            f"plugin {name} declares {capability.__name__} in provides but did not provide it"
            for name, plugin in self._plugins.items()
            for capability in plugin.provides
            if capability not in self._services.owners
            and capability not in failed
            and all(self._services.find(each) is not None for each in plugin.optional)  # it may depend on one of these
        ]
        if problems:
            raise DeploymentError(problems)

    def gather(self, problems: list[str]) -> None:
        """Let the owners of hooks call them. Adds the faults of each."""
        for name, plugin in self._plugins.items():
            if type(plugin).gather is not PluginBase.gather:
                self._services.act_for(name, frozenset())
                try:
                    plugin.gather(self, self._services)
                except DeploymentError as error:
                    problems.extend(error.problems)
                    self._failed.add(name)
                except (Exception, SystemExit) as error:  # noqa: BLE001  (a plugin's own code may fail in any way)
                    problems.append(f"plugin {name}, gather: {type(error).__name__}: {error}")
                    self._failed.add(name)

    def collect(self, hook: str, **arguments: object) -> list[Contribution[Any]]:
        """The contributions of all plugins to that hook, in boot order. See ``precipiq_contracts.hooks.Hooks``."""
        found: list[Contribution[Any]] = []
        problems: list[str] = []
        for name in self._implementing(hook):
            try:
                found.extend(Contribution(name, value) for value in _values(hook, self._call(name, hook, **arguments)))
            except DeploymentError as error:
                problems.extend(error.problems)
            except _Unexpected as error:
                problems.append(f"plugin {name}, hook {hook}: {error}")
        if problems:
            raise DeploymentError(problems)
        return found

    def lifespans(self) -> list[Contribution[AbstractAsyncContextManager[object]]]:
        """Each plugin's lifespan, in boot order."""
        found: list[Contribution[AbstractAsyncContextManager[object]]] = []
        for name in self._implementing("lifespan"):
            lifespan = self._call(name, "lifespan")
            if not isinstance(lifespan, AbstractAsyncContextManager):
                raise DeploymentError([f"plugin {name}, hook lifespan: must return an asynchronous context manager"])
            found.append(Contribution(name, lifespan))
        return found

    def _implementing(self, hook: str) -> Iterator[str]:
        """The plugins that implement it, each as it is asked; those whose own hooks failed are asked nothing more."""
        implementing = {impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        for name in self._plugins:
            if name in implementing and name not in self._failed:
                self._services.act_for(name, frozenset())
                yield name

    def _call(self, name: str, hook: str, **arguments: object) -> object:
        others = [plugin for other, plugin in self._plugins.items() if other != name]
        caller = self._manager.subset_hook_caller(hook, others)
        try:
            results = caller(services=self._services, **arguments)
        except DeploymentError:
            raise
        except (Exception, SystemExit) as error:
            raise DeploymentError([f"plugin {name}, hook {hook}: {type(error).__name__}: {error}"]) from error
        return results[0] if results else None  # pluggy omits None

    def _note(self, outcome: pluggy.Result[Any], hook: str, impls: Sequence[pluggy.HookImpl], _: object) -> None:
        result = outcome.get_result() if outcome.exception is None else None
        for name in (impl.plugin_name for impl in impls):
            provided = [each for each, owner in self._services.owners.items() if owner == name]
            self.calls.append(HookCall(name, hook, provided if hook == "provide" else result[0] if result else None))

    def _find_misdeclared(self, name: str, plugin: AnyPlugin) -> Iterator[str]:
        for attribute, function in inspect.getmembers(type(plugin), inspect.isfunction):
            marked = cast("dict[str, Any] | None", getattr(function, f"{PROJECT}_impl", None))
            is_hook = attribute in self._specified
            if marked and not is_hook and not marked.get("optionalhook"):
                yield f"plugin {name}: there is no hook {attribute!r}{suggest(attribute, self._specified)}"
            if is_hook and not marked and not hasattr(function, f"{PROJECT}_spec"):
                yield f"plugin {name}: {attribute} overrides a hook without @hookimpl, so nothing would call it"
            if marked and inspect.iscoroutinefunction(function):
                yield f"plugin {name}: hook {attribute} is a coroutine; hooks are synchronous and return objects"
            if marked and any(marked.get(option) for option in ("hookwrapper", "wrapper", "tryfirst", "trylast")):
                yield f"plugin {name}: hook {attribute} uses wrapper, tryfirst or trylast; order comes from the graph"


class _Unexpected(Exception):
    """What a hook returned cannot be used; says why."""


_EXPECTED = {
    "migrations": ("a Migration", "branch", "location", "tenant_tables"),
    "wrapped_secrets": ("a store of wrapped secrets", "name", "all", "replace"),
    "routes": ("an Endpoint, a WebSocketEndpoint or a route of Starlette's", "matches|handler"),
    "middleware": ("a LayeredMiddleware", "layer", "wrap"),
    "authenticators": ("an Authenticator", "authenticate"),
    "commands": ("a click.Command", "name", "invoke"),
    "secret_names": ("a text", "lower", "encode"),
}
"""Hook of core's -> what it gives, and the attributes that it must have; ``|`` divides alternatives."""


def _values(hook: str, result: object) -> Sequence[object]:
    """What the hook returned, one by one. Raises ``_Unexpected``."""
    if not isinstance(result, Sequence) or isinstance(result, str | bytes):
        raise _Unexpected(f"must return a sequence, not {type(result).__name__}")
    what, *attributes = _EXPECTED.get(hook, ("an object",))
    for value in result:
        has_all = all(any(hasattr(value, name) for name in each.split("|")) for each in attributes)
        if isinstance(value, type) or not has_all:
            raise _Unexpected(f"{str(value)[:100]} is not {what}")
    return result


def _specs(namespace: type) -> list[str]:
    return [name for name, value in vars(namespace).items() if hasattr(value, f"{PROJECT}_spec")]


def _name(value: object) -> str:
    """``GET /path``, ``Mount /path``, a table's or middleware's place, a name, or the name of a class."""
    path = getattr(value, "path", None)
    if isinstance(path, str):
        kind = type(value).__name__
        return f"{getattr(value, 'method', 'WS' if kind == 'WebSocketEndpoint' else kind)} {path}"
    if isinstance(value, Migration):
        return ", ".join(value.tenant_tables)
    if isinstance(value, type):
        return value.__name__
    for attribute in ("layer", "name"):
        name = getattr(value, attribute, None)
        if isinstance(name, str):
            return name
    return value if isinstance(value, str) else type(value).__name__
