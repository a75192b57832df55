"""The RateLimit header fields, in one place, because their standard is still a draft.

draft-ietf-httpapi-ratelimit-headers-11: ``RateLimit-Policy: "write";q=100;w=1`` and ``RateLimit: "write";r=99;t=1``.
"""

from __future__ import annotations

from precipiq_contracts.auth import RateState


def rate_headers(state: RateState) -> tuple[tuple[bytes, bytes], ...]:
    """Policy and current state of the counter that the request counted against."""
    policy = f'"{state.policy}";q={state.quota};w={state.window_s}'
    current = f'"{state.policy}";r={state.remaining};t={state.reset_s}'
    return ((b"ratelimit-policy", policy.encode()), (b"ratelimit", current.encode()))
