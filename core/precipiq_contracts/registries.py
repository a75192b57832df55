"""What plugins contributed, for the plugins that use it. Empty during ``provide``, complete from lifespan on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from precipiq_contracts.chain import EntryKind
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.followers import Follower
from precipiq_contracts.vault import WrappedSecrets


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
