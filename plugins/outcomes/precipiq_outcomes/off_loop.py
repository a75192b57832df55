"""Where sums over many agents are computed: not in the event loop, in which everybody else would wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import TypeVar

T = TypeVar("T")

_INLINE_MAX = 200


async def off_loop(size: int | Sized, work: Callable[[], T]) -> T:
    """What ``work`` gives; in a thread when it is about many items. ``work`` is pure."""
    count = size if isinstance(size, int) else len(size)
    return work() if count <= _INLINE_MAX else await asyncio.to_thread(work)
