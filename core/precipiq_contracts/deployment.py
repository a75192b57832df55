"""The facts about its deployment that a plugin may read, and the operator's terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeploymentInfo:
    """``serving``: False when a command runs, and nothing is served. ``public_url``: how clients reach the server.

    ``workers``: how many processes serve; each has its own plugins and runs their lifespans. ``seat``: the place of
    this process among them, in the server's format; None when it is no worker.
    """

    name: str
    data_dir: Path
    public_url: str
    serving: bool
    workers: int = 1
    seat: str | None = None


class Console(Protocol):
    """Capability: the operator's screen, never logged. ``is_terminal``: whether a secret may be shown on it."""

    is_terminal: bool

    def say(self, text: str) -> None:
        """Show text as it is; at ``serve``, once the server is ready."""
        ...
