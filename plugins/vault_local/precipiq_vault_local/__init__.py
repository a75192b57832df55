"""Wraps secrets under a master key from a file or variable."""
