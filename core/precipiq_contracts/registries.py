"""What plugins contributed, for the plugins that use it. Empty during ``provide``, complete from lifespan on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from precipiq_contracts.chain import EntryKind
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.database import Migration
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.followers import Follower
from precipiq_contracts.vault import WrappedSecrets


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)


class Registry(Generic[NamedT]):
    """Contributions by name, filled once at boot. ``what``: one of them, for messages, such as ``entry kind``."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._by_name: dict[str, NamedT] = {}
        self.owners: dict[str, str] = {}
        """Name -> the plugin that contributed it."""

    @property
    def by_name(self) -> Mapping[str, NamedT]:
        return self._by_name

    def fill(self, contributions: Iterable[Contribution[NamedT]]) -> None:
        """Take them in. Raises ``DeploymentError`` with a sentence for each name that two plugins claim."""
        problems = []
        for item in contributions:
            name = item.value.name
            if name in self.owners:
                problems.append(f"{self._what} {name!r} is registered by both {self.owners[name]} and {item.owner}")
            self.owners[name] = item.owner
            self._by_name[name] = item.value
        if problems:
            raise DeploymentError(problems)


class EntryKinds(Protocol):
    """Capability: the kinds of entry that all plugins registered, by name."""

    @property
    def by_name(self) -> Mapping[str, EntryKind]: ...


class EntryStoreDrivers(Protocol):
    """Capability: the entry store drivers that all plugins registered, by name."""

    @property
    def by_name(self) -> Mapping[str, EntryStoreDriver]: ...


class Followers(Protocol):
    """Capability: the followers that all plugins registered, by name."""

    @property
    def by_name(self) -> Mapping[str, Follower]: ...


class WrappedSecretsRegistry(Protocol):
    """Capability: where all plugins store wrapped secrets, by name."""

    @property
    def by_name(self) -> Mapping[str, WrappedSecrets]: ...


class Migrations(Protocol):
    """Capability: the schemas of all plugins, by branch, for the plugin whose database keeps them."""

    @property
    def by_name(self) -> Mapping[str, Migration]: ...


class Routes:
    """Capability: all routes, with their owners, for what describes them. Filled once everybody was asked."""

    def __init__(self) -> None:
        self.contributions: Sequence[Contribution[Any]] = ()
