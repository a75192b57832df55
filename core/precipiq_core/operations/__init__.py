"""What every deployment serves for its operators: health, metrics, OpenAPI and the documentation page."""
