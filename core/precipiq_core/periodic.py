"""Work that is done again and again while a deployment serves, and that survives what it depends on being away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from precipiq_contracts.errors import PrecipiqError

log = structlog.get_logger("precipiq.periodic")


async def repeat(work: Callable[[], Awaitable[None]], interval_s: float, failing: str) -> NoReturn:
    """Do the work, wait ``interval_s``, and so on until cancelled.

    What it raises is logged as ``failing`` once, until it works again; what nobody foresaw, with its traceback.
    """
    is_failing = False
    while True:
        try:
            await work()
            if is_failing:
                log.info("works again", after=failing)
            is_failing = False
        except Exception as error:  # noqa: BLE001  (a fault must not end the work for good, and in silence)
            if not is_failing:
                _say(failing, error)
            is_failing = True
        await asyncio.sleep(interval_s)


def _say(failing: str, error: Exception) -> None:
    if isinstance(error, PrecipiqError):
        log.warning(failing, reason=error.message)
    else:
        log.error(failing, exc_info=error)
