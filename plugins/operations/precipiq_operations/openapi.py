"""The OpenAPI 3.1 document, generated from the endpoints that are mounted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from precipiq_contracts.contribution import Contribution
from precipiq_core.http.endpoint import EVENT_STREAM, JSON, Endpoint, NoBody, NoQuery, PlainEndpoint
from precipiq_core.http.envelope import status_of_code
from precipiq_core.http.router import full_path
from precipiq_core.http.websocket import WebSocketEndpoint
from precipiq_operations import openapi_parts as parts
from precipiq_operations.openapi_parts import Document

_REF = "#/components/schemas/{model}"
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")

References: TypeAlias = dict[Any, Document]


def openapi_document(
    routes: Iterable[Contribution[Endpoint | PlainEndpoint | WebSocketEndpoint]], *, title: str, version: str
) -> Document:
    """The document; each endpoint is tagged with the plugin that owns it."""
    endpoints: list[tuple[str, Endpoint]] = []
    plain: list[tuple[str, PlainEndpoint]] = []
    websockets: list[tuple[str, WebSocketEndpoint]] = []
    for route in routes:
        if isinstance(route.value, Endpoint):
            endpoints.append((route.owner, route.value))
        elif isinstance(route.value, PlainEndpoint):
            plain.append((route.owner, route.value))
        else:
            websockets.append((route.owner, route.value))
    wanted: set[tuple[type[BaseModel], Any]] = set()
    for _, endpoint in endpoints:
        wanted.add((endpoint.output, "serialization"))
        wanted |= {(model, "validation") for model in (endpoint.body, endpoint.query) if model not in (NoBody, NoQuery)}
    wanted |= {(websocket.query, "validation") for _, websocket in websockets}
    wanted |= {(page.output, "serialization") for _, page in plain if page.output is not None}
    ordered = sorted(wanted, key=lambda pair: (pair[0].__name__, pair[1]))
    references, definitions = models_json_schema(ordered, ref_template=_REF)
    schemas = {**definitions.get("$defs", {}), **parts.COMMON_SCHEMAS}
    paths: Document = {}
    for owner, endpoint in endpoints:
        operation = _operation(owner, endpoint, references, schemas)
        paths.setdefault(full_path(endpoint), {})[endpoint.method.lower()] = operation
    for owner, page in plain:
        paths.setdefault(page.path, {})[page.method.lower()] = _plain_operation(owner, page, references)
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
    if endpoint.method == "POST" and endpoint.raw_body_bytes_max is None:
        operation["parameters"].append(parts.IDEMPOTENCY_KEY)
    if endpoint.media_type == EVENT_STREAM:
        operation["parameters"].append(parts.LAST_EVENT_ID)
    if endpoint.is_download:
        operation["parameters"] += parts.DOWNLOAD_PARAMETERS
    if endpoint.body is not NoBody:
        reference = references[endpoint.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    if endpoint.raw_body_bytes_max is not None:
        operation["requestBody"] = parts.RAW_BODY
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


def _path_parameters(endpoint: Endpoint | PlainEndpoint) -> list[Document]:
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
    schema = (
        _envelope(references[endpoint.output, "serialization"])
        if endpoint.media_type == JSON
        else parts.FILE
        if endpoint.is_download
        else parts.TEXT
    )
    content: Document = {endpoint.media_type: {"schema": schema}}
    responses: Document = {
        str(endpoint.status): {"description": "success", "headers": parts.SUCCESS_HEADERS, "content": content}
    }
    if endpoint.repeat_status is not None:
        repeated = {**responses[str(endpoint.status)], "description": "what the first such request made"}
        responses[str(endpoint.repeat_status)] = repeated
    if endpoint.is_download:
        responses |= _download_responses(content)
    codes = [
        "unauthorized",
        "forbidden",
        "validation_error",
        "rate_limited",
        "internal_error",
        "unavailable",
        *endpoint.errors,
    ]
    if endpoint.body is not NoBody or endpoint.raw_body_bytes_max is not None:
        codes += ["payload_too_large", "unsupported_media_type", "request_timeout"]
    if endpoint.method == "POST" and endpoint.raw_body_bytes_max is None:
        codes += ["idempotency_conflict"]
    if "{" in endpoint.path:
        codes += ["not_found"]
    if endpoint.is_download:
        codes += ["range_not_satisfiable"]
    return responses | _refusals(codes)


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
        by_status.setdefault(status_of_code(code), []).append(code)
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
    """The handshake; what follows it has no place in OpenAPI but the description."""
    codes = ["unauthorized", "forbidden", "validation_error", "upgrade_required", "rate_limited", "internal_error"]
    return {
        **_named(owner, endpoint),
        "security": _security(key_in_query=True),
        "parameters": _query_parameters(endpoint.query, references, schemas),
        "responses": {"101": {"description": "the WebSocket is open"}} | _refusals([*codes, "unavailable"]),
    }


def _plain_operation(owner: str, page: PlainEndpoint, references: References) -> Document:
    schema: Document = {"type": "object"} if page.media_type == JSON else parts.TEXT
    if page.output is not None:
        schema = _envelope(references[page.output, "serialization"])
    success: Document = {"description": "success", "content": {page.media_type: {"schema": schema}}}
    responses: Document = {"200": success}
    if page.path == "/readyz":
        responses["503"] = {**success, "description": "a part is not ready"}
    responses |= _refusals([*page.errors, *(["not_found"] if "{" in page.path else [])])
    name = re.sub(r"\W+", "_", page.path).strip("_")
    operation: Document = {
        "operationId": f"{owner}_{name}",
        "tags": [owner],
        "summary": page.summary,
        "security": [],
        "parameters": [*_path_parameters(page), *map(_header_parameter, page.headers.items())],
        "responses": responses,
    }
    if page.method == "POST":
        operation["requestBody"] = parts.RAW_BODY
    return operation


def _header_parameter(header: tuple[str, str]) -> Document:
    name, description = header
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"}}
