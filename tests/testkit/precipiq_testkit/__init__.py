"""Test help for authors of plugins and drivers: a clock and a random source to steer, a store in memory, suites.

Owns nothing that runs in production, and production code must not import it.
"""
