"""The OpenAPI 3.1 document, generated from the endpoints that are mounted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from precipiq_core.http.endpoint import EVENT_STREAM, JSON, Endpoint, NoBody, NoQuery, PlainEndpoint
from precipiq_core.http.envelope import STATUS_OF
from precipiq_core.http.router import full_path
from precipiq_core.http.websocket import WebSocketEndpoint

_REF = "#/components/schemas/{model}"
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")

Document: TypeAlias = dict[str, Any]
References: TypeAlias = dict[Any, Document]


def openapi_document(
    endpoints: Sequence[tuple[str, Endpoint]],
    plain: Iterable[tuple[str, PlainEndpoint]],
    websockets: Sequence[tuple[str, WebSocketEndpoint]],
    *,
    title: str,
    version: str,
) -> Document:
    """The document; each endpoint is tagged with the plugin that owns it."""
    wanted: set[tuple[type[BaseModel], Any]] = set()
    for _, endpoint in endpoints:
        wanted.add((endpoint.output, "serialization"))
        wanted |= {(model, "validation") for model in (endpoint.body, endpoint.query) if model not in (NoBody, NoQuery)}
    wanted |= {(websocket.query, "validation") for _, websocket in websockets}
    ordered = sorted(wanted, key=lambda pair: (pair[0].__name__, pair[1]))
    references, definitions = models_json_schema(ordered, ref_template=_REF)
    schemas = {**definitions.get("$defs", {}), **_COMMON_SCHEMAS}
    paths: Document = {}
    for owner, endpoint in endpoints:
        operation = _operation(owner, endpoint, references, schemas)
        paths.setdefault(full_path(endpoint), {})[endpoint.method.lower()] = operation
    for owner, page in plain:
        paths.setdefault(page.path, {})["get"] = _plain_operation(owner, page)
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


def _operation(owner: str, endpoint: Endpoint, references: References, schemas: Document) -> Document:
    operation: Document = {
        **_named(owner, endpoint),
        "security": _security(key_in_query=endpoint.key_in_query),
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint.query, references, schemas)],
        "responses": _responses(endpoint, references),
    }
    if endpoint.method == "POST":
        operation["parameters"].append(_IDEMPOTENCY_KEY)
    if endpoint.media_type == EVENT_STREAM:
        operation["parameters"].append(_LAST_EVENT_ID)
    if endpoint.body is not NoBody:
        reference = references[endpoint.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return operation


def _named(owner: str, endpoint: Endpoint | WebSocketEndpoint) -> Document:
    doc = inspect.getdoc(endpoint.handler) or ""
    summary, _, description = doc.partition("\n")
    return {
        "operationId": f"{owner}_{endpoint.handler.__name__}",
        "tags": [owner],
        "summary": summary.strip().rstrip("."),
        "description": f"{description.strip()}\n\nNeeds a key with the scope `{endpoint.scope}`.".strip(),
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
    if query is NoQuery:
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
    envelope = {
        "type": "object",
        "required": ["data", "meta"],
        "properties": {
            "data": references[endpoint.output, "serialization"],
            "meta": {"$ref": _REF.format(model="Meta")},
        },
    }
    responses: Document = {
        str(endpoint.status): {
            "description": "success",
            "headers": _SUCCESS_HEADERS,
            "content": {JSON: {"schema": envelope}},
        }
    }
    if endpoint.media_type != JSON:
        responses[str(endpoint.status)]["content"] = {endpoint.media_type: {"schema": {"type": "string"}}}
    codes = [
        "unauthorized",
        "forbidden",
        "validation_error",
        "rate_limited",
        "internal_error",
        "unavailable",
        *endpoint.errors,
    ]
    if endpoint.body is not NoBody:
        codes += ["payload_too_large", "unsupported_media_type", "request_timeout"]
    if endpoint.method == "POST":
        codes += ["idempotency_conflict"]
    if "{" in endpoint.path:
        codes += ["not_found"]
    return responses | _refusals(codes)


def _refusals(codes: Sequence[str]) -> Document:
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_OF.get(code, 409), []).append(code)
    return {
        str(status): {
            "description": " or ".join(f"`{code}`" for code in by_status[status]),
            "headers": {"X-Request-ID": _REQUEST_ID_HEADER},
            "content": {JSON: {"schema": {"$ref": _REF.format(model="Error")}}},
        }
        for status in sorted(by_status)
    }


def _security(*, key_in_query: bool) -> list[Document]:
    return [{"key": []}, {"bearer": []}, *([{"query": []}] if key_in_query else [])]


def _websocket_operation(
    owner: str, endpoint: WebSocketEndpoint, references: References, schemas: Document
) -> Document:
    """The handshake; what follows it has no place in OpenAPI but the description."""
    codes = ["unauthorized", "forbidden", "validation_error", "upgrade_required", "rate_limited", "internal_error"]
    return {
        **_named(owner, endpoint),
        "security": _security(key_in_query=True),
        "parameters": _query_parameters(endpoint.query, references, schemas),
        "responses": {"101": {"description": "the WebSocket is open"}} | _refusals([*codes, "unavailable"]),
    }


def _plain_operation(owner: str, page: PlainEndpoint) -> Document:
    schema: Document = {"type": "object"} if page.media_type == "application/json" else {"type": "string"}
    success: Document = {"description": "success", "content": {page.media_type: {"schema": schema}}}
    responses: Document = {"200": success}
    if page.path == "/readyz":
        responses["503"] = {**success, "description": "a part is not ready"}
    name = re.sub(r"\W+", "_", page.path).strip("_")
    return {
        "operationId": f"{owner}_{name}",
        "tags": [owner],
        "summary": page.summary,
        "security": [],
        "responses": responses,
    }


_REQUEST_ID_HEADER: Document = {"schema": {"type": "string"}, "description": "names this request in the logs"}
_SUCCESS_HEADERS: Document = {
    "X-Request-ID": _REQUEST_ID_HEADER,
    "RateLimit": {"schema": {"type": "string"}, "description": "what is left, IETF draft 11"},
    "RateLimit-Policy": {"schema": {"type": "string"}, "description": "the limit, IETF draft 11"},
}
_IDEMPOTENCY_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "the same key and body returns the first answer; the same key with another body is refused",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_LAST_EVENT_ID: Document = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "id of the last event received: the stream goes on after it; counts for more than the query",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}
_COMMON_SCHEMAS: Document = {
    "Meta": {
        "type": "object",
        "required": ["request_id", "timestamp"],
        "properties": {"request_id": {"type": "string"}, "timestamp": {"type": "string", "format": "date-time"}},
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "details": {
                        "type": "object",
                        "description": "dotted path of the field -> what is wrong with it",
                        "additionalProperties": {"type": "array", "items": {"type": "string"}},
                    },
                },
            }
        },
    },
}
