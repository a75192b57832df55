"""The markers of pluggy, and how a plugin asks the others through hooks of its own."""

from __future__ import annotations

from typing import Any, Protocol

import pluggy

from precipiq_contracts.contribution import Contribution

PROJECT = "precipiq"

hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks the methods of a class that specifies hooks."""
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's method that implements one. With ``optionalhook=True`` it may belong to a plugin that is not on."""


class Hooks(Protocol):
    """What a plugin calls its own hooks with, at boot."""

    def collect(self, hook: str, **arguments: object) -> list[Contribution[Any]]:
        """What all plugins return for that hook, in boot order, each with its owner's name.

        An implementation takes any of ``arguments``, and of ``services``. Raises ``DeploymentError`` for one that fails
        or returns no sequence.
        """
        ...
