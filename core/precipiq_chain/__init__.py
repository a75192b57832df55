"""The chain to the byte: canonical form, strict JSON, sealing, records, verification, and the shared parts of drivers.

Pure: it opens nothing and waits for nothing. Imports the contracts and no other package of ours.
"""
