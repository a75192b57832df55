"""Every middleware of core, each an ASGI callable around the next. `precipiq_core.app` has their order."""
