"""What plugins share: Protocols, frozen dataclasses, errors, clock and types of settings. Imports nothing of ours."""
