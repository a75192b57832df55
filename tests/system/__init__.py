"""Everything together, over real sockets."""
