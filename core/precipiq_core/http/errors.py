"""Errors that only HTTP has: leaves of the tree in ``precipiq_contracts.errors``."""

from __future__ import annotations

from precipiq_contracts.errors import RequestError


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    default_message = "method not allowed"


class RequestTimeout(RequestError):
    code = "request_timeout"
    default_message = "the request body did not arrive in time"


class RangeNotSatisfiable(RequestError):
    """The requested range of a download begins behind its end. ``size_bytes``: of the whole."""

    code = "range_not_satisfiable"
    default_message = "the range begins behind the last byte"

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__()


class PayloadTooLarge(RequestError):
    code = "payload_too_large"
    default_message = "the request body is too large"


class HeadersTooLarge(RequestError):
    code = "headers_too_large"
    default_message = "the request's headers are too large"


class UpgradeRequired(RequestError):
    """A plain HTTP request to the path of a WebSocket."""

    code = "upgrade_required"
    default_message = "this is a WebSocket: the request must ask for the upgrade"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    default_message = "the request body must be application/json, not compressed"
