"""The types that plugins share: Protocols, dataclasses, errors, clock, settings. Imports no other package of ours."""
