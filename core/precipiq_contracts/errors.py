"""The error tree. Owns the stable codes; independent of HTTP (``http/envelope.py`` maps codes to statuses).

A plugin adds leaves by subclassing one of these and, where the outcome differs, setting ``code``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class PrecipiqError(Exception):
    """Root of every error that the project raises on purpose.

    ``code`` is stable and documented; ``message`` is for people; ``details`` maps a dotted path to messages.
    Neither may hold a secret or another tenant's data: both reach clients and logs.
    """

    code: ClassVar[str] = "internal_error"
    default_message: ClassVar[str] = "something went wrong"

    def __init__(self, message: str | None = None, *, details: Mapping[str, Sequence[str]] | None = None) -> None:
        self.message = message or self.default_message
        self.details: Mapping[str, Sequence[str]] | None = details
        super().__init__(self.message)


class DeploymentError(PrecipiqError):
    """The deployment cannot boot. ``problems`` lists every fault, not only the first."""

    code = "deployment_error"
    default_message = "the deployment cannot boot"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[DeploymentError], tuple[tuple[str, ...]]]:
        """Pickle the arguments, not the text."""
        return type(self), (self.problems,)


class RequestError(PrecipiqError):
    """The request cannot be served as it stands; nothing was changed."""


class BadRequest(RequestError):
    """The client's bytes are not HTTP."""

    code = "bad_request"
    default_message = "the request is not valid HTTP"


class Unauthorized(RequestError):
    """No valid key. Carries no reason on purpose: every cause has the same answer."""

    code = "unauthorized"
    default_message = "invalid or missing api key"


class Forbidden(RequestError):
    code = "forbidden"
    default_message = "the api key lacks the scope this needs"


class NotFound(RequestError):
    code = "not_found"
    default_message = "not found"


class Conflict(RequestError):
    code = "conflict"
    default_message = "the request conflicts with what is stored"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"
    default_message = "this idempotency key was used with another body"


class Gone(RequestError):
    """The requested object existed, and was deleted permanently."""

    code = "gone"
    default_message = "this was deleted"


class ValidationFailed(RequestError):
    code = "validation_error"
    default_message = "the request is not valid"


class RateLimited(RequestError):
    """Too many requests; the next may succeed after ``retry_after_s``."""

    code = "rate_limited"
    default_message = "rate limit exceeded"

    def __init__(self, message: str | None = None, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unavailable(PrecipiqError):
    """A part is down, draining or full; the same request may succeed after ``retry_after_s``."""

    code = "unavailable"
    default_message = "temporarily unavailable; try again"

    def __init__(self, message: str | None = None, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class VaultRefused(Unavailable):
    """A stored secret cannot be unwrapped: altered, for another context, or under a master key that is not held.

    A retry does not help; the operator must act.
    """

    code = "vault_refused"
    default_message = "a stored secret cannot be unwrapped with the master keys of this deployment"


class InternalError(PrecipiqError):
    code = "internal_error"
    default_message = "internal error"
