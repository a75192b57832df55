"""A plugin's contribution, with the plugin's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contribution(Generic[T]):
    """``owner``: the plugin's name."""

    owner: str
    value: T
