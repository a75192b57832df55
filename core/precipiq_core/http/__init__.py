"""The HTTP edge: typed endpoints, the envelope, bodies and their limits, OpenAPI."""
