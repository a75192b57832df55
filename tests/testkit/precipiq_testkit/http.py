"""Limits of requests as small as a test needs them: smaller than a deployment may set them."""

from __future__ import annotations

from precipiq_core.http.settings import HttpSettings


def http_limits(body_bytes_max: int, body_timeout_s: float, depth_max: int, handler_timeout_s: float) -> HttpSettings:
    """``[http]`` with these, none of them checked."""
    return HttpSettings.model_construct(
        body_bytes_max=body_bytes_max,
        body_timeout_s=body_timeout_s,
        depth_max=depth_max,
        handler_timeout_s=handler_timeout_s,
    )
