"""Turning bodies and query strings into models, and pydantic's errors into the documented details."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_plus

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from precipiq_chain.canonical import Json
from precipiq_contracts.clock import format_timestamp
from precipiq_contracts.errors import ValidationFailed
from precipiq_core.settings import keys_in
from precipiq_core.times import accept_end, accept_time

ModelT = TypeVar("ModelT", bound=BaseModel)

_PATH_CHARACTERS_MAX = 200
_QUERY_BYTES_MAX = 16 * 1024
_QUERY_PAIRS_MAX = 64
_PROBLEMS_MAX = 20
_UNKNOWN_FIELDS_MAX = 20

_WORDS = {
    "extra_forbidden": "unknown field",
    "missing": "is required",
    "less_than_equal": "must be <= {le}",
    "greater_than_equal": "must be >= {ge}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
}
"""pydantic's kinds of error in words of ours, with its context's values."""


class RequestModel(BaseModel):
    """Base of request bodies and query strings: unknown keys are refused, values are never echoed.

    A field that is a list has a ``max_length``, or ``fail_fast=True`` where any number may stand in it: pydantic would
    gather the problems of hundreds of thousands of items.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_unknown(cls, value: Any) -> Any:
        if type(value) is dict and len(value) > len(cls.model_fields) + _UNKNOWN_FIELDS_MAX:
            raise ValueError(f"has more than {_UNKNOWN_FIELDS_MAX} unknown fields")
        return value


class FieldProblem(ValueError):
    """What a validator of a whole model raises about one of its fields."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(problem)


def no_nul(value: str) -> str:
    """For ``AfterValidator``: PostgreSQL's texts cannot hold U+0000."""
    if "\x00" in value:
        raise ValueError("must not hold the character U+0000")
    return value


Moment = Annotated[StrictStr, Field(max_length=40), AfterValidator(lambda value: format_timestamp(accept_time(value)))]
"""A caller's time (``precipiq_core.times``), as the chain writes times."""

EndMoment = Annotated[
    StrictStr, Field(max_length=40), AfterValidator(lambda value: format_timestamp(accept_end(value)))
]
"""As :data:`Moment`, for the end of a half-open range: a bare date includes that UTC day."""


def parse_body(model: type[ModelT], value: Json) -> ModelT:
    """Raises ``ValidationFailed`` naming the wrong fields: the first ``_PROBLEMS_MAX``, and how many there are."""
    if not isinstance(value, dict):
        raise ValidationFailed(details={"body": ["must be an object"]})
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refusal(error, value) from None


def parse_query(model: type[ModelT], query_string: bytes) -> ModelT:
    """Parse a query string; ``name.key=value`` pairs gather in the model's dict field ``name``.

    Raises ``ValidationFailed``, also for a parameter that is unknown or given twice.
    """
    if not query_string:
        return _validate(model, {})
    values: dict[str, Any] = {}
    for name, value in _pairs(query_string):
        group, dot, key = name.partition(".")
        target, field = (values.setdefault(group, {}), key) if dot and group in model.model_fields else (values, name)
        if not isinstance(target, dict) or field in target:
            raise ValidationFailed(details={name[:_PATH_CHARACTERS_MAX]: ["given more than once"]})
        target[field] = value
    return _validate(model, values)


def _validate(model: type[ModelT], values: dict[str, Any]) -> ModelT:
    try:
        return model.model_validate_strings(values)
    except ValidationError as error:
        raise _refusal(error, values) from None


def _pairs(query_string: bytes) -> list[tuple[str, str]]:
    if len(query_string) > _QUERY_BYTES_MAX:
        raise ValidationFailed("the query string is too long")
    pieces = [piece for piece in query_string.split(b"&") if piece]
    if len(pieces) > _QUERY_PAIRS_MAX:
        raise ValidationFailed(f"more than {_QUERY_PAIRS_MAX} query parameters")
    pairs = []
    for piece in pieces:
        name, _, value = piece.partition(b"=")
        try:
            pairs.append((_decode(name), _decode(value)))
        except UnicodeDecodeError:
            raise ValidationFailed("the query string is not UTF-8") from None
        if "\x00" in "".join(pairs[-1]):
            raise ValidationFailed("the query string holds the character U+0000")
    return pairs


def _decode(text: bytes) -> str:
    return unquote_plus(text.decode("ascii"), errors="strict")


def _refusal(error: ValidationError, value: object) -> ValidationFailed:
    found = error.errors(include_url=False, include_context=True, include_input=False)
    details: dict[str, list[str]] = {}
    for item in found[:_PROBLEMS_MAX]:
        fault = item.get("ctx", {}).get("error")
        field = [fault.field] if isinstance(fault, FieldProblem) else []
        path = ".".join([*keys_in(item, value), *field])[:_PATH_CHARACTERS_MAX] or "body"
        details.setdefault(path, []).append(_message(item["type"], item.get("ctx", {}), item["msg"]))
    more = len(found) - _PROBLEMS_MAX
    return ValidationFailed(
        f"the request is not valid; {more} more problems are not shown" if more > 0 else None, details=details
    )


def _message(kind: str, context: dict[str, Any], message: str) -> str:
    if kind in _WORDS:
        return _WORDS[kind].format(**context)
    return message.removeprefix("Value error, ").replace("Input should be", "must be")
