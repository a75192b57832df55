"""What configuration is made of: strict models, secret references, and turning their errors into clear sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.secret_location import SecretLocation

BASE_DIR = "base_dir"
"""Key of the validation context that holds the folder where relative paths start: the data directory."""

_TABLE, _LIST, _NETWORK = "must be a table", "must be a list", "must be a network, such as 10.0.0.0/8"
_WORDS = {"model_type": _TABLE, "dict_type": _TABLE, "tuple_type": _LIST, "list_type": _LIST, "missing": "is required"}
_WORDS |= {"ip_v4_network": _NETWORK, "ip_v6_network": _NETWORK, "string_pattern_mismatch": "has another form"}

ModelT = TypeVar("ModelT", bound=BaseModel)


class Settings(BaseModel):
    """Base of core's own sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretReference(BaseModel):
    """Where a secret lies: ``{ env = "NAME" }`` or ``{ file = "path" }``; never the value itself.

    A relative path starts at the deployment's data directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_values(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError('write { env = "NAME" } or { file = "path" }, never the secret itself')
        return value

    @model_validator(mode="after")
    def _anchor(self, info: ValidationInfo) -> SecretReference:
        if (self.env is None) == (self.file is None):
            raise ValueError('needs exactly one of { env = "NAME" } and { file = "path" }')
        base = (info.context or {}).get(BASE_DIR)
        if self.file is not None and base is not None:
            object.__setattr__(self, "file", Path(base) / self.file)
        return self

    @property
    def location(self) -> SecretLocation:
        """The same for other processes, which need no settings."""
        return SecretLocation(self.env, self.file)

    def reveal(self, where: str) -> str:
        """See :meth:`SecretLocation.reveal`. ``where``: this setting's path, with which what it raises begins."""
        try:
            return self.location.reveal()
        except DeploymentError as error:
            raise DeploymentError([f"{where}: {problem}" for problem in error.problems]) from error


def parse_settings(
    model: type[ModelT], table: Mapping[str, Any], *, where: str, base_dir: Path, problems: list[str]
) -> ModelT | None:
    """The table as ``model``; on errors adds a sentence for each to ``problems`` and gives None."""
    try:
        return model.model_validate(table, context={BASE_DIR: base_dir})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems.extend(dict.fromkeys(_sentence(model, table, where, item) for item in found))
        return None


def _sentence(model: type[BaseModel], table: Mapping[str, Any], where: str, item: ErrorDetails) -> str:
    """In the words of the file: no name of a Python class, no regular expression."""
    loc = item["loc"]
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if item["type"] == "extra_forbidden":
        message = f"unknown key{suggest(str(loc[-1]), _fields_at(model, loc[:-1]))}"
    return f"{'.'.join((where, *_keys(loc, table)))}: {_WORDS.get(item['type'], message)}"


def _keys(loc: tuple[int | str, ...], value: Any) -> Iterator[str]:
    for part in loc:
        if isinstance(part, int) or isinstance(value, Mapping):  # else no key, but which of several types did not fit
            yield str(part)
            value = value.get(part) if isinstance(part, str) else value[part]


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> Iterable[str]:
    for part in loc:
        field = model.model_fields.get(str(part))
        options = () if field is None else (field.annotation, *get_args(field.annotation))
        models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if len(models) != 1:
            return ()
        model = models[0]
    return model.model_fields


def suggest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


class HttpSettings(Settings):
    """``[http]``: what one request may cost."""

    body_bytes_max: int = Field(10 * 1024 * 1024, ge=1024, description="largest request body, bytes")
    body_timeout_s: float = Field(30.0, gt=0, description="time for a request body to arrive, seconds")
    handler_timeout_s: float = Field(60.0, gt=0, description="time for an answer to begin, seconds")
    download_stall_timeout_s: float = Field(
        60.0,
        gt=0,
        description="time for a client to take the next 64 KiB of a download, seconds; on Linux one that takes nothing "
        "at all ends with `server.tcp_user_timeout_s`",
    )
    depth_max: int = Field(64, ge=4, le=200, description="nesting of a request body, levels")
    list_limit_default: int = Field(50, ge=1, description="items of a page when the caller names no limit")
    list_limit_max: int = Field(500, ge=1, description="items of a page at most")
