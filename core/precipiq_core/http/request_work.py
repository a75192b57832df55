"""The weight of one request's body: large ones take turns for memory, and are worked on beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from precipiq_chain.strict_json import nodes_at_most
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Unavailable
from precipiq_core.http.settings import HttpSettings
from precipiq_work.off_loop import LIGHT_BYTES, LIGHT_NODES, OffLoop
from precipiq_work.shares import Shares

UNCOUNTED_BYTES = 16 * 1024  # such bodies are read at once: the number of connections bounds their memory

SMALL_BODY_BYTES = 64 * 1024
"""So much of each body counts for nothing in a ``BodyMemory``."""

_NODE_BYTES = 72  # an empty object and its place in a list; a member with its name takes twice as much
_NODE_TEXT_BYTES = 3  # an empty object and a comma

T = TypeVar("T")


class RequestWork:
    """What the bodies of all requests of an application share: memory and a thread."""

    def __init__(self, http: HttpSettings, off_loop: OffLoop) -> None:
        self.off_loop = off_loop
        self.nodes_max = http.nodes_max
        share_bytes_max = max(self.memory_of(http.body_bytes_max), http.bodies_memory_bytes_max // 2)
        self.shares = Shares(max(http.bodies_memory_bytes_max, share_bytes_max), share_bytes_max)
        self.answers = Shares(http.answers_memory_bytes_max, http.answers_memory_bytes_max // 4)
        self.wait_s = http.body_timeout_s

    def memory_of(self, size: int, nodes: int | None = None) -> int:
        """Bytes that a body of that size, and what is parsed from it, may take; of unknown nodes: the most."""
        nodes = size // _NODE_TEXT_BYTES if nodes is None else nodes
        return size + _NODE_BYTES * min(nodes, self.nodes_max)


class BodyMemory:
    """What bodies without a key that are being read may hold together, beyond the first bytes of each."""

    def __init__(self, bytes_max: int) -> None:
        self.left_bytes = bytes_max

    def take(self, byte_count: int) -> None:
        """Raises ``Unavailable`` when there is not so much left."""
        if byte_count > self.left_bytes:
            raise Unavailable("too many large bodies at the same time")
        self.left_bytes -= byte_count


class BodyWork:
    """The body of one request of ``chain``; of no chain where the sender is not known.

    ``keyless``: memory for bodies of unknown senders, which take it as they arrive, or are refused: what is announced
    and does not come takes none.
    """

    __slots__ = ("_chain", "_held_bytes", "_keyless", "_taken_bytes", "_work", "is_light")

    def __init__(self, work: RequestWork, chain: Chain | None, keyless: BodyMemory | None = None) -> None:
        self._work = work
        self._keyless = keyless
        self._taken_bytes = 0
        self._chain = chain or _NOBODYS
        self._held_bytes = 0
        self.is_light = True

    async def hold(self, size: int) -> None:
        """Wait for the memory of a body of that size, until :meth:`release`. Raises ``Unavailable`` after too long."""
        if self._keyless is not None:
            return
        try:
            async with asyncio.timeout(self._work.wait_s):
                self._held_bytes = await self._work.shares.take(self._chain, self._work.memory_of(size))
        except TimeoutError:
            raise Unavailable("too many large request bodies at once; try again") from None

    def note_arrived(self, size: int) -> None:
        """Note that so much of the body is there, and more to come. Raises ``Unavailable``."""
        needed = size - SMALL_BODY_BYTES - self._taken_bytes
        if self._keyless is not None and needed > 0:
            self._keyless.take(needed)
            self._taken_bytes += needed

    def release(self) -> None:
        self._keep(0)
        if self._keyless is not None:
            self._keyless.left_bytes += self._taken_bytes
            self._taken_bytes = 0

    def weigh(self, raw: bytes | bytearray) -> None:
        """Note whether work on the JSON may stay on the loop; give back the memory that it cannot take."""
        if len(raw) > LIGHT_NODES:  # so there may be more nodes
            nodes = nodes_at_most(raw)
            self.is_light = len(raw) <= LIGHT_BYTES and nodes <= LIGHT_NODES
            self._keep(self._work.memory_of(len(raw), nodes))

    def _keep(self, size: int) -> None:
        if self._held_bytes > size:
            self._work.shares.give_back(self._chain, self._held_bytes - size)
            self._held_bytes = size

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work()``, on the loop or beside it, by the body's weight."""
        return work() if self.is_light else await self._work.off_loop.run(self._chain, work)


_NOBODYS = Chain("", "live")
