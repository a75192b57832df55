"""The public pages of every deployment: health, metrics, OpenAPI and its page."""
