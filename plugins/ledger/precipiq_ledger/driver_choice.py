"""Which entry store a deployment uses."""

from __future__ import annotations

from precipiq_contracts.database import Database
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.entry_store import MULTI_WRITER, EntryStoreDriver
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.services import Services
from precipiq_core.registry import Registry
from precipiq_core.settings import suggest


def choose_driver(named: str | None, registry: Registry[EntryStoreDriver], services: Services) -> EntryStoreDriver:
    """The driver that the deployment names, else the driver of its database's plugin. Raises ``DeploymentError``."""
    name = named or _of_the_database(registry, services)
    drivers = registry.by_name
    if name is None or name not in drivers:
        known = ", ".join(sorted(drivers)) or "none"
        what = "name a driver" if name is None else f"no driver is called {name!r}"
        raise DeploymentError([f"plugins.ledger.driver: {what} (registered: {known}){suggest(name or '', drivers)}"])
    workers = services.get(DeploymentInfo).workers
    if workers > 1 and MULTI_WRITER not in drivers[name].capabilities:
        problem = f"plugins.ledger.driver: {name!r} serves one process only, and server.workers is {workers}"
        raise DeploymentError([problem])
    return drivers[name]


def _of_the_database(registry: Registry[EntryStoreDriver], services: Services) -> str | None:
    owner = services.owners.get(Database)
    return next((name for name, each in registry.owners.items() if each == owner), None)
