"""The chain to the byte: canonical form, strict JSON, sealing, records, verification, and what drivers share.

Pure: it opens nothing and waits for nothing. Imports the contracts and nothing else of ours.
"""
