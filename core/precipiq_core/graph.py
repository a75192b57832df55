"""The capability graph: what plugins provide and require gives the boot order, or a list of all faults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from graphlib import CycleError, TopologicalSorter

from precipiq_core.plugin import AnyPlugin


def boot_order(
    plugins: Mapping[str, type[AnyPlugin]],
    provided_by_core: Collection[type],
    problems: list[str],
    advise: Callable[[type], str] = lambda capability: "",
) -> list[str]:
    """Names so that each plugin comes after what it requires; ties in the deployment's order.

    ``advise``: ends the sentence on a capability that is missing.
    """
    providers: dict[type, str] = dict.fromkeys(provided_by_core, "core")
    for name, plugin in plugins.items():
        for capability in plugin.provides:
            if capability in providers:
                problems.append(
                    f"{capability.__name__} is provided by both {providers[capability]} and {name}; enable one"
                )
            else:
                providers[capability] = name
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, plugin in plugins.items():
        sorter.add(name)
        for capability in plugin.requires:
            if capability not in providers:
                missing = f"plugin {name} requires {capability.__name__}, which no enabled plugin provides"
                problems.append(missing + advise(capability))
        for capability in (*plugin.requires, *plugin.optional):
            provider = providers.get(capability, "core")
            if provider not in ("core", name):
                sorter.add(name, provider)
    try:
        sorter.prepare()
    except CycleError as error:
        problems.append("plugins require each other in a circle: " + " -> ".join(error.args[1]))
        return []
    rank = {name: index for index, name in enumerate(plugins)}
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        order.extend(ready)
        sorter.done(*ready)
    return order
