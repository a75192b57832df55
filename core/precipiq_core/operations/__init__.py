"""What every deployment serves for its operators: health, metrics, OpenAPI and the documentation page."""

from precipiq_core.operations.plugin import Operations

__all__ = ["Operations"]
