"""Signed evidence bundles that a stranger checks with OpenSSL."""
