"""What operators and readers of the interface ask of every deployment: health, metrics, OpenAPI and its page."""
