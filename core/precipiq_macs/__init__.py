"""Proofs that a process with the master key made something: MACs of entries and rows, and what such entries say."""
