"""Serves a deployment by Hypercorn, in process: sockets, TLS, drain, workers, and the cures that Hypercorn needs."""
