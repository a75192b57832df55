"""Work that goes on in the background of an application: who runs it, and what becomes of it when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypedDict, Unpack

Work = Callable[[], Awaitable[object]]
"""One round: it does what there is to do and returns."""

ROUND_S_MAX = 300.0
"""A round that takes longer counts as stuck, unless the task says otherwise."""
LONG_ROUND_S_MAX = 3600.0
"""The same, for rounds over all chains and for large files."""


class TaskOptions(TypedDict, total=False):
    """What a task in the background may say of itself.

    ``again``: the log event when it works again. ``wake``: begins the next round at once when it is set, unless the
    last one failed; cleared before each round. ``waits_first``: the first round comes after a pause.
    ``overdue_s``: how long it may fail before ``/readyz`` says so; default three rounds, and a minute at least.
    ``round_s_max``: how long one round may take, by default ``ROUND_S_MAX``; None: as long as it likes.
    ``tolerated``: errors that are warnings too and that ``/readyz`` does not mind: what is away may stay away while
    the deployment serves. ``final``: done once at the end; what it raises is logged, and goes no further.
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

    A failed round never ends a task. It is counted in ``precipiq_background_failures_total`` and tried again: soon,
    then after twice the pause each time. ``/readyz`` names a task that has failed for too long, or is stuck.
    """

    def __call__(
        self,
        name: str,
        work: Work,
        *,
        every_s: float | None,
        failing: str,
        **options: Unpack[TaskOptions],
    ) -> AbstractAsyncContextManager[None]:
        """Repeat ``work`` as long as this is entered; then cancel it, and do ``final`` once.

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
