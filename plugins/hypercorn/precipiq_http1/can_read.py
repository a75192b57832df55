"""Whether the next request of a connection may be read."""

from __future__ import annotations

from hypercorn.asyncio.worker_context import EventWrapper


class CanRead(EventWrapper):
    """Whether the next request of a connection may be read: once the answer before is complete."""

    _ended = False

    async def wait(self) -> None:
        """Raises ``ConnectionError`` when there will be no next request."""
        if not self._ended:
            await super().wait()
        if self._ended:
            raise ConnectionAbortedError

    def end(self) -> None:
        """There will be none."""
        self._ended = True
        self._event.set()
