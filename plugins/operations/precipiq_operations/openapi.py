"""The OpenAPI 3.1 document, generated from the endpoints that are mounted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from precipiq_contracts.contribution import Contribution
from precipiq_core.http.endpoint import AnyQuery, Endpoint, NoBody, NoQuery, RawBody
from precipiq_core.http.envelope import status_of_code
from precipiq_core.http.router import full_path
from precipiq_core.http.websocket import WebSocketEndpoint
from precipiq_operations import openapi_parts as parts
from precipiq_operations.openapi_parts import Document

_REF = "#/components/schemas/{model}"
READYZ = "/readyz"
JSON = "application/json"
_EVENT_STREAM = "text/event-stream"
_CODES_OF_KEYED = ["unauthorized", "forbidden", "validation_error", "rate_limited", "internal_error", "unavailable"]
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")

References: TypeAlias = dict[Any, Document]


def openapi_document(
    routes: Iterable[Contribution[Endpoint | WebSocketEndpoint | BaseRoute]], *, title: str, version: str
) -> Document:
    """The document; each endpoint has its owner's name as tag. Starlette's routes are not described."""
    found = [*routes]
    endpoints = [(route.owner, route.value) for route in found if isinstance(route.value, Endpoint)]
    endpoints.sort(key=lambda item: item[1].scope is None)  # public endpoints come last
    websockets = [(route.owner, route.value) for route in found if isinstance(route.value, WebSocketEndpoint)]
    wanted: set[tuple[type[BaseModel], Any]] = {(websocket.query, "validation") for _, websocket in websockets}
    for _, endpoint in endpoints:
        model = _output_model(endpoint)
        wanted |= set() if model is None else {(model, "serialization")}
        inputs = [each for each in (endpoint.body, endpoint.query) if not isinstance(each, RawBody)]
        wanted |= {(each, "validation") for each in inputs if each not in (NoBody, NoQuery, AnyQuery)}
    ordered = sorted(wanted, key=lambda pair: (pair[0].__name__, pair[1]))
    references, definitions = models_json_schema(ordered, ref_template=_REF)
    schemas = {**definitions.get("$defs", {}), **parts.COMMON_SCHEMAS}
    paths: Document = {}
    for owner, endpoint in endpoints:
        operation = _operation(owner, endpoint, references, schemas)
        paths.setdefault(full_path(endpoint), {})[endpoint.method.lower()] = operation
    for owner, websocket in websockets:
        paths.setdefault(websocket.path, {})["get"] = _websocket_operation(owner, websocket, references, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Precipiq-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "api_key"},
            },
        },
    }


def _output_model(endpoint: Endpoint) -> type[BaseModel] | None:
    return endpoint.output if issubclass(endpoint.output, BaseModel) else endpoint.output.model


def _operation(owner: str, endpoint: Endpoint, references: References, schemas: Document) -> Document:
    operation: Document = {
        **_identity(owner, endpoint),
        "security": [] if endpoint.scope is None else _security(key_in_query=endpoint.answer.key_in_query),
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint.query, references, schemas)],
        "responses": _responses(endpoint, references),
    }
    if endpoint.method == "POST" and not isinstance(endpoint.body, RawBody):
        operation["parameters"].append(parts.IDEMPOTENCY_KEY)
    if endpoint.answer.media_type == _EVENT_STREAM:
        operation["parameters"].append(parts.LAST_EVENT_ID)
    if endpoint.answer.has_ranges:
        operation["parameters"] += parts.DOWNLOAD_PARAMETERS
    if isinstance(endpoint.body, RawBody):
        operation["parameters"] += map(_header_parameter, endpoint.body.headers.items())
        operation["requestBody"] = parts.RAW_BODY
    elif endpoint.body is not NoBody:
        reference = references[endpoint.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": reference}}}
    return operation


def _identity(owner: str, endpoint: Endpoint | WebSocketEndpoint) -> Document:
    doc = inspect.getdoc(endpoint.handler) or ""
    summary, _, description = doc.partition("\n")
    needs = "" if endpoint.scope is None else f"Needs a key with the scope `{endpoint.scope}`."
    description = f"{description.strip()}\n\n{needs}".strip()
    # An endpoint for Stripe or a balancer is named by its path.
    name = endpoint.handler.__name__ if endpoint.scope else re.sub(r"\W+", "_", full_path(endpoint)).strip("_")
    return {
        "operationId": f"{owner}_{name}",
        "tags": [owner],
        "summary": summary.strip().rstrip("."),
        **({"description": description} if description else {}),
    }


def _path_parameters(endpoint: Endpoint) -> list[Document]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": endpoint.path_parameters.get(name, ""),
            "schema": {"type": "string"},
        }
        for name in _PATH_PARAMETER.findall(endpoint.path)
    ]


def _query_parameters(query: type[BaseModel], references: References, schemas: Document) -> list[Document]:
    if query in (NoQuery, AnyQuery):
        return []
    name = references[query, "validation"]["$ref"].rsplit("/", 1)[1]
    model = schemas[name]
    required = model.get("required", [])
    parameters = []
    for field, schema in model.get("properties", {}).items():
        parameter = {"name": field, "in": "query", "required": field in required, "schema": _without_null(schema)}
        if schema.get("type") == "object":
            parameter["name"] = f"{field}.KEY"
            parameter["description"] = f"any `{field}.<key>=<value>`; {schema.get('description', '')}".strip("; ")
            parameter["schema"] = {"type": "string"}
        elif "description" in schema:
            parameter["description"] = schema["description"]
        parameters.append(parameter)
    return parameters


def _without_null(schema: Document) -> Document:
    """A query parameter is absent rather than null."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    rest = {
        key: value
        for key, value in schema.items()
        if key not in ("anyOf", "default") or (value is not None and key != "anyOf")
    }
    return {**rest, **options[0]} if len(options) == 1 else schema


def _responses(endpoint: Endpoint, references: References) -> Document:
    responses = _successes(endpoint, references)
    codes = [] if endpoint.scope is None else _CODES_OF_KEYED
    codes = [*codes, *endpoint.errors]
    takes_model = endpoint.body is not NoBody and not isinstance(endpoint.body, RawBody)
    if endpoint.body is not NoBody:
        codes += ["payload_too_large", "unsupported_media_type", "request_timeout"]
    if endpoint.scope is None and (takes_model or endpoint.query is not AnyQuery):
        codes += ["validation_error"]
    if endpoint.method == "POST" and not isinstance(endpoint.body, RawBody):
        codes += ["idempotency_conflict"]
    if "{" in endpoint.path:
        codes += ["not_found"]
    if endpoint.answer.has_ranges:
        codes += ["range_not_satisfiable"]
    return responses | _refusals(codes)


def _successes(endpoint: Endpoint, references: References) -> Document:
    content: Document = {endpoint.answer.media_type: {"schema": _answer_schema(endpoint, references)}}
    fields: Document = {} if endpoint.scope is None else {"headers": parts.SUCCESS_HEADERS}
    success: Document = {"description": "success", **fields, "content": content}
    responses: Document = {str(endpoint.status): success}
    if endpoint.repeat_status is not None:
        responses[str(endpoint.repeat_status)] = {**success, "description": "what the first such request made"}
    if endpoint.path == READYZ:
        responses["503"] = {**success, "description": "a part is not ready"}
    return responses | (_download_responses(content) if endpoint.answer.has_ranges else {})


def _answer_schema(endpoint: Endpoint, references: References) -> Document:
    if issubclass(endpoint.output, BaseModel):
        return _envelope(references[endpoint.output, "serialization"])
    if endpoint.answer.media_type == JSON:
        return {"type": "object"}
    return parts.FILE if endpoint.answer.has_ranges else parts.TEXT


def _envelope(data: Document) -> Document:
    return {
        "type": "object",
        "required": ["data", "meta"],
        "properties": {"data": data, "meta": {"$ref": _REF.format(model="Meta")}},
    }


def _download_responses(content: Document) -> Document:
    whole = {**parts.SUCCESS_HEADERS, **parts.DOWNLOAD_HEADERS}
    return {
        "200": {"description": "all of it", "headers": whole, "content": content},
        "206": {
            "description": "the range that was asked for",
            "headers": {**whole, **parts.CONTENT_RANGE_HEADER},
            "content": content,
        },
        "304": {"description": "`If-None-Match` names what would be sent", "headers": parts.SUCCESS_HEADERS},
    }


def _refusals(codes: Sequence[str]) -> Document:
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        status = status_of_code(code)
        assert status is not None, "the router refused unknown codes"
        by_status.setdefault(status, []).append(code)
    return {
        str(status): {
            "description": " or ".join(f"`{code}`" for code in by_status[status]),
            "headers": {"X-Request-ID": parts.REQUEST_ID_HEADER},
            "content": {JSON: {"schema": {"$ref": _REF.format(model="Error")}}},
        }
        for status in sorted(by_status)
    }


def _security(*, key_in_query: bool) -> list[Document]:
    return [{"key": []}, {"bearer": []}, *([{"query": []}] if key_in_query else [])]


def _websocket_operation(
    owner: str, endpoint: WebSocketEndpoint, references: References, schemas: Document
) -> Document:
    """The handshake. OpenAPI has no place for the messages after it but the description."""
    codes = ["unauthorized", "forbidden", "validation_error", "upgrade_required", "rate_limited", "internal_error"]
    return {
        **_identity(owner, endpoint),
        "security": _security(key_in_query=True),
        "parameters": _query_parameters(endpoint.query, references, schemas),
        "responses": {"101": {"description": "the WebSocket is open"}} | _refusals([*codes, "unavailable"]),
    }


def _header_parameter(header: tuple[str, str]) -> Document:
    name, description = header
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"}}
