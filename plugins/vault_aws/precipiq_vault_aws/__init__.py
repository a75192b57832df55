"""Wraps secrets with a key of AWS KMS."""
