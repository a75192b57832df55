"""Hypercorn in this process or several: sockets, TLS, the middleware that cures its leaks, and a graceful end."""
