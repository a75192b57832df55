"""Contributions by name: implements the capabilities of ``precipiq_contracts.registries``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)


class Registry(Generic[NamedT]):
    """Contributions by name, filled once at boot. ``what``: the noun for messages, such as ``entry kind``.

    ``needs``: attributes that each must have beside its name.
    """

    def __init__(self, what: str, *needs: str) -> None:
        self._what = what
        self._needs = needs
        self._by_name: dict[str, NamedT] = {}
        self.owners: dict[str, str] = {}
        """Name -> the plugin that contributed it."""

    @property
    def by_name(self) -> Mapping[str, NamedT]:
        return self._by_name

    def fill(self, contributions: Iterable[Contribution[NamedT]]) -> None:
        """Add the contributions. Raises ``DeploymentError`` with a sentence for each name that two plugins claim."""
        problems = []
        for item in contributions:
            name = getattr(item.value, "name", None)
            if not isinstance(name, str) or isinstance(item.value, type) or not self._has_all(item.value):
                problems.append(f"plugin {item.owner}: {str(item.value)[:100]} is no {self._what}")
                continue
            if name in self.owners:
                problems.append(f"{self._what} {name!r} is registered by both {self.owners[name]} and {item.owner}")
            self.owners[name] = item.owner
            self._by_name[name] = item.value
        if problems:
            raise DeploymentError(problems)

    def _has_all(self, value: object) -> bool:
        return all(hasattr(value, name) for name in self._needs)
