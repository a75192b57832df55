"""Logs: one JSON line per event, for every logger of the process, that never shows a secret."""
