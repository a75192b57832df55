"""The live stream: entries of a chain over WebSocket and server-sent events, without a gap and without a repeat."""
