"""Wiring of ``address_limits``: limits by address beside any authenticator. On where a plugin asks for a limiter."""

from __future__ import annotations

from typing import ClassVar

from precipiq_auth_keys.address_limiter import AddressWindows, LocalWindows, WindowCounter
from precipiq_auth_keys.config import AddressLimitsConfig
from precipiq_contracts.auth import AddressLimiter
from precipiq_contracts.clock import Clock
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl


class AddressLimitsPlugin(PluginBase[AddressLimitsConfig]):
    """Requests counted per client address. Counts as ``auth_keys`` is set to, and in this process without it."""

    name = "address_limits"
    Config = AddressLimitsConfig
    provides: ClassVar[tuple[type, ...]] = (AddressLimiter,)
    optional: ClassVar[tuple[type, ...]] = (WindowCounter,)

    @hookimpl
    def provide(self, services: Services) -> None:
        counter = services.find(WindowCounter)
        if counter is None:
            counter = LocalWindows(services.get(Clock), addresses_max=self.config.addresses_max)
        services.provide(AddressLimiter, AddressWindows(counter))
