"""The markers of pluggy, and the object by which a plugin calls hooks of its own."""

from __future__ import annotations

from typing import Any, Protocol

import pluggy

from precipiq_contracts.contribution import Contribution

PROJECT = "precipiq"

hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks the methods of a class that specifies hooks."""
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method that implements a hook. With ``optionalhook=True`` the hook's owner may be disabled."""


class Hooks(Protocol):
    """Calls the hooks that a plugin owns, at boot."""

    def collect(self, hook: str, **arguments: object) -> list[Contribution[Any]]:
        """The values that all plugins return for that hook, in boot order, each with its owner's name.

        An implementation takes any of ``arguments``, and of ``services``. Raises ``DeploymentError`` when one fails
        or returns no sequence.
        """
        ...
