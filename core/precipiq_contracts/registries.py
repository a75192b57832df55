"""Plugins' contributions, for the plugins that use them. Empty during ``provide``, complete from lifespan on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from precipiq_contracts.chain import EntryKind
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.database import Migration
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.followers import Follower
from precipiq_contracts.vault import WrappedSecrets

T_co = TypeVar("T_co", covariant=True)


class ByName(Protocol[T_co]):
    """Contributions of all plugins, by name."""

    @property
    def by_name(self) -> Mapping[str, T_co]: ...


class EntryKinds(ByName[EntryKind], Protocol):
    """Capability: the kinds of entry."""


class EntryStoreDrivers(ByName[EntryStoreDriver], Protocol):
    """Capability: the entry store drivers."""


class Followers(ByName[Follower], Protocol):
    """Capability: the followers."""


class WrappedSecretsRegistry(ByName[WrappedSecrets], Protocol):
    """Capability: where wrapped secrets are stored."""


class Migrations(ByName[Migration], Protocol):
    """Capability: the schemas, by branch, for the plugin whose database keeps them."""


class Routes:
    """Capability: all routes, with their owners, for OpenAPI. Filled after all hooks were called."""

    def __init__(self) -> None:
        self.contributions: Sequence[Contribution[Any]] = ()
