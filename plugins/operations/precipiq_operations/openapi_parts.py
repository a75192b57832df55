"""The parts of the OpenAPI document that do not depend on the endpoints, and the statuses of error codes."""

from __future__ import annotations

from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]

TEXT: Document = {"type": "string"}
FILE: Document = {"type": "string", "format": "binary"}

_ENTITY_TAG = '^"[!#-~]+"$'

RAW_BODY: Document = {
    "required": True,
    "description": "taken as it came, byte for byte",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
REQUEST_ID_HEADER: Document = {"schema": {"type": "string"}, "description": "names this request in the logs"}
SUCCESS_HEADERS: Document = {
    "X-Request-ID": REQUEST_ID_HEADER,
    "RateLimit": {"schema": {"type": "string"}, "description": "what is left, IETF draft 11"},
    "RateLimit-Policy": {"schema": {"type": "string"}, "description": "the limit, IETF draft 11"},
}
IDEMPOTENCY_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "the same key and body returns the first answer; the same key with another body is refused",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
LAST_EVENT_ID: Document = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "id of the last event received: the stream goes on after it; counts for more than the query",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}
DOWNLOAD_PARAMETERS: tuple[Document, ...] = (
    {
        "name": "Range",
        "in": "header",
        "required": False,
        "description": "one range of bytes, to go on with a download; several are answered by all of it",
        "schema": {"type": "string", "pattern": "^bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})$"},
    },
    {
        "name": "If-Range",
        "in": "header",
        "required": False,
        "description": "the `ETag` of what is there already: when it is another now, all of it is sent",
        "schema": {"type": "string", "pattern": _ENTITY_TAG},
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "the `ETag` of what is there already: when it is the same now, nothing is sent",
        "schema": {"type": "string", "pattern": _ENTITY_TAG},
    },
)
DOWNLOAD_HEADERS: Document = {
    "Accept-Ranges": {"schema": {"type": "string", "enum": ["bytes"]}},
    "Content-Disposition": {"schema": {"type": "string"}, "description": "an attachment, with a file name"},
    "ETag": {"schema": {"type": "string", "pattern": _ENTITY_TAG}, "description": "names exactly these bytes"},
}
CONTENT_RANGE_HEADER: Document = {
    "Content-Range": {
        "schema": {"type": "string", "pattern": "^bytes [0-9]+-[0-9]+/[0-9]+$"},
        "description": "first and last byte of this part, and the size of the whole",
    }
}
COMMON_SCHEMAS: Document = {
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
