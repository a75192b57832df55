"""A table of the deployment as a model: its faults become sentences in the terms of the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from precipiq_contracts.settings import BASE_DIR

_TABLE, _LIST, _NETWORK = "must be a table", "must be a list", "must be a network, such as 10.0.0.0/8"
_WORDS = {"model_type": _TABLE, "dict_type": _TABLE, "tuple_type": _LIST, "list_type": _LIST, "missing": "is required"}
_WORDS |= {"int_parsing": "must be a whole number", "int_from_float": "must be a whole number"}
_WORDS |= {"float_parsing": "must be a number", "bool_parsing": "must be true or false", "path_type": "must be a path"}
_WORDS |= {"ip_v4_network": _NETWORK, "ip_v6_network": _NETWORK, "string_pattern_mismatch": "has another form"}

ModelT = TypeVar("ModelT", bound=BaseModel)


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
    """In the terms of the file: no name of a Python class, no regular expression."""
    loc = item["loc"]
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if item["type"] == "extra_forbidden":
        message = f"unknown key{suggest(str(loc[-1]), _fields_at(model, loc[:-1]))}"
    return f"{'.'.join((where, *keys_in(item, table)))}: {_WORDS.get(item['type'], message)}"


def keys_in(item: ErrorDetails, value: Any) -> Iterator[str]:
    """The keys from the root of ``value`` to what is wrong, without the names of types that were tried there."""
    for part in item["loc"]:
        if isinstance(value, list) and isinstance(part, int):
            yield str(part)
            value = value[part] if part < len(value) else None
        elif isinstance(value, Mapping) and (part in value or item["type"] == "missing"):
            yield str(part)
            value = value.get(part)


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
