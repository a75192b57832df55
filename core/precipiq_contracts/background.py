"""Work in the background of an application: the capability that runs it and handles its failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypedDict, Unpack

Work = Callable[[], Awaitable[object]]
"""One round: does the work that is due and returns."""

ROUND_S_MAX = 300.0
"""A round that takes longer counts as stuck, unless the task says otherwise."""
LONG_ROUND_S_MAX = 3600.0
"""The same, for rounds over all chains and for large files."""


class TaskOptions(TypedDict, total=False):
    """The options of a task in the background.

    ``again``: the log event when it works again. ``wake``: begins the next round at once when it is set, unless the
    last one failed; cleared before each round. ``waits_first``: the first round starts after a pause.
    ``overdue_s``: how long it may fail before ``/readyz`` names it; default three rounds, and a minute at least.
    ``round_s_max``: how long one round may take, by default ``ROUND_S_MAX``; None: unbounded.
    ``tolerated``: errors that are warnings too and that ``/readyz`` ignores: the deployment serves without the part
    that is unavailable. ``final``: runs once at the end; an exception from it is logged and not raised.
    """

    again: str
    wake: asyncio.Event | None
    waits_first: bool
    overdue_s: float | None
    round_s_max: float | None
    tolerated: tuple[type[Exception], ...]
    final: Work | None


class Background(Protocol):
    """Capability: the tasks that run while the application does. No plugin starts a bare task that outlives a request.

    A failed round never ends a task. It is counted in ``precipiq_background_failures_total`` and retried with
    exponential backoff. ``/readyz`` names a task that has failed for too long, or is stuck.
    """

    def __call__(
        self, name: str, work: Work, *, every_s: float | None, failing: str, **options: Unpack[TaskOptions]
    ) -> AbstractAsyncContextManager[None]:
        """Repeat ``work`` while the context is entered; then cancel it, and run ``final`` once.

        ``name``: ``plugin.task``, unique in the application: a second one of that name raises ``DeploymentError``.
        ``every_s``: the pause between rounds; None: the task ends when a round has succeeded.
        ``failing``: the log event of a failure: for a ``PrecipiqError`` a warning, once until the task works again; for
        any other an error with its traceback, each time.
        """
        ...

    @property
    def pings(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Name of each task that runs -> its health check, which raises ``Unavailable``."""
        ...
