"""Hypercorn's protocols with the faults cured that no middleware can reach. Written for Hypercorn 0.18.

    fault                                                        cure
    HTTP/2 data after an early answer: KeyError, connection lost  those data are acknowledged and dropped
    HTTP/2 path outside ASCII: traceback, connection lost         that one stream is reset
    permessage-deflate cannot be switched off: 190 KB a client    not offered

Hypercorn looks these names up when a connection opens, so :func:`install` puts ours in their place.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import h2.events
import hypercorn.protocol
import hypercorn.protocol.ws_stream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.protocol.h2 import H2Protocol


def install() -> None:
    """Make Hypercorn use the cured parts, in this process, from now on. May be called again."""
    module: Any = hypercorn.protocol
    module.H2Protocol = CuredH2
    streams: Any = hypercorn.protocol.ws_stream
    streams.server_extensions_handshake = lambda *_: None


class CuredH2(H2Protocol):
    """One HTTP/2 connection; a stream that was answered early or is malformed costs only itself."""

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with suppress(ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and not _has_plain_path(event):
                with suppress(ProtocolError):
                    self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            else:
                await super()._handle_events([event])
        await self._flush()


def _has_plain_path(event: h2.events.RequestReceived) -> bool:
    return all(bytes(value).isascii() for name, value in event.headers if name == b":path")
