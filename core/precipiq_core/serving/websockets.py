"""Switches permessage-deflate off: it costs 190 KB a client, browsers always ask for it; Hypercorn has no setting."""

from __future__ import annotations

from typing import Any

import hypercorn.protocol.ws_stream


def refuse_compression() -> None:
    """Make Hypercorn agree to no WebSocket extension in this process."""
    module: Any = hypercorn.protocol.ws_stream
    module.server_extensions_handshake = lambda *_: None
