"""Work of more than some milliseconds, in a thread beside the event loop: one piece at a time, in turns between chains.

Python threads share one interpreter: two of them would make the loop wait twice as long, and finish no sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from precipiq_contracts.chain import Chain
from precipiq_work.turns import Turns

LIGHT_NODES = 6_000
LIGHT_BYTES = 128 * 1024
"""JSON of no more nodes and bytes is checked and made canonical within 20 ms, however it is made: on the loop."""

T = TypeVar("T")


class OffLoop:
    """Where an application's heavy work runs. To be used from one event loop."""

    def __init__(self) -> None:
        self._turns = Turns(1)

    async def run(self, chain: Chain, work: Callable[[], T]) -> T:
        """The result of ``work()``, which runs in a thread in the chain's turn; its exceptions are raised here.

        Work that has begun runs to its end: when the caller is cancelled, its turn lasts until then.
        """
        async with self._turns.of(chain):
            running = asyncio.get_running_loop().run_in_executor(None, work)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])
                raise
            finally:
                del running  # an exception holds this frame, and the future the exception: a body would stay in memory


def is_light(values: list[Any]) -> bool:
    """Whether work on these JSON values may stay on the loop. Looks at ``LIGHT_NODES`` of them at most."""
    nodes, size = 0, 0
    waiting = values.copy()
    for value in waiting:
        kind = type(value)
        if kind is str:
            size += len(value)
        elif kind is dict:
            nodes += 2 * len(value)
            if nodes > LIGHT_NODES:
                return False
            try:
                size += len("".join(value))
            except TypeError:  # a name that is no text: the work will refuse it
                return False
            waiting += value.values()
        elif kind is list:
            nodes += len(value)
            if nodes > LIGHT_NODES:
                return False
            waiting += value
        elif kind is int:
            size += value.bit_length() // 3  # its digits
    return size <= LIGHT_BYTES
