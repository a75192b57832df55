"""Keeps export bundles in an S3-compatible store."""
