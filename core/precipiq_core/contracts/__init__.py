"""What plugins share: Protocols and frozen dataclasses, nothing else. Imports nothing of core but the errors."""
