"""Switches permessage-deflate off: it costs 190 KB a client, browsers always ask for it, Hypercorn 0.18 has no setting."""

from __future__ import annotations

import hypercorn.protocol.ws_stream as ws_stream


def refuse_compression() -> None:
    """Make Hypercorn agree to no WebSocket extension in this process."""
    ws_stream.server_extensions_handshake = lambda *_: None  # type: ignore[assignment]
