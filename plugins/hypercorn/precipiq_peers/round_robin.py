"""Which stream of a connection sends next, without priorities: RFC 9113 section 5.3.2 deprecates those of RFC 7540."""

from __future__ import annotations

from collections import OrderedDict

from priority.priority import DeadlockError, MissingStreamError


class RoundRobin:
    """Which stream sends next: each with something to send in its turn. In the place of ``priority.PriorityTree``."""

    def __init__(self) -> None:
        self._is_ready: dict[int, bool] = {}
        self._ready: OrderedDict[int, None] = OrderedDict()

    def insert_stream(self, stream_id: int) -> None:
        """Add a stream that has something to send."""
        self._is_ready[stream_id] = True
        self._ready[stream_id] = None

    def remove_stream(self, stream_id: int) -> None:
        """Forget a stream."""
        self._is_ready.pop(stream_id, None)
        self._ready.pop(stream_id, None)

    def block(self, stream_id: int) -> None:
        """Say that the stream has nothing to send, or may not."""
        self._ready.pop(stream_id, None)

    def unblock(self, stream_id: int) -> None:
        """Say that it may have something. Raises ``MissingStreamError``."""
        if stream_id not in self._is_ready:
            raise MissingStreamError
        self._ready[stream_id] = None

    def __next__(self) -> int:
        """Raises ``DeadlockError`` when no stream has anything to send."""
        if not self._ready:
            raise DeadlockError
        stream_id = next(iter(self._ready))
        self._ready.move_to_end(stream_id)
        return stream_id
