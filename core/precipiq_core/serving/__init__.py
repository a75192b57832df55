"""Hypercorn in this process: sockets, TLS, the middleware that cures its leaks, and a graceful end."""
