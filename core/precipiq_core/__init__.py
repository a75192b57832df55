"""The minimal core: a deployment file becomes plugins, a capability graph and one ASGI application."""

__version__ = "0.1.0"
