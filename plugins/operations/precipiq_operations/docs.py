"""``/docs``: the OpenAPI document as one page of plain HTML, rendered here: no script, no network, prints well."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from typing import Any

from precipiq_operations.openapi_parts import Document

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #0b6e4f }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { margin-top: 3rem; border-bottom: 2px solid var(--accent) }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary code { font-weight: 600 } .method { color: var(--accent) }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top }
pre { overflow-x: auto; background: #8881; padding: .6rem; border-radius: 6px; font-size: .85rem }
nav a { margin-right: 1rem }
"""

_STYLE_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"


def docs_page(document: Document) -> str:
    """The whole page."""
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    links = "".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in by_tag)
    sections = "".join(f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(parts)}' for tag, parts in by_tag.items())
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        f"<p>Send the key as <code>X-Precipiq-Key</code> or <code>Authorization: Bearer</code>. "
        f'The same as a document: <a href="/openapi.json">openapi.json</a>.</p>'
        f'<nav>{links}<a href="#schemas">schemas</a></nav>{sections}<h2 id="schemas">schemas</h2>{schemas}'
        "</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    return (
        f'<details><summary><code><span class="method">{method.upper()}</span> {escape(path)}</code> '
        f"{escape(operation['summary'])}</summary>{''.join(_parts(operation))}</details>"
    )


def _parts(operation: dict[str, Any]) -> Iterator[str]:
    for paragraph in operation.get("description", "").split("\n\n"):
        yield f"<p>{escape(paragraph)}</p>"
    rows = [
        f"<tr><td><code>{escape(item['name'])}</code></td><td>{escape(item['in'])}</td>"
        f"<td>{'required' if item.get('required') else ''}</td><td>{escape(item.get('description', ''))}</td></tr>"
        for item in operation.get("parameters", [])
    ]
    if rows:
        yield f"<table><tr><th>parameter</th><th>in</th><th></th><th></th></tr>{''.join(rows)}</table>"
    if "requestBody" in operation:
        yield f"<p>Body: {_reference(operation['requestBody']['content']['application/json']['schema'])}</p>"
    rows = [
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{_answer_schema(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    ]
    yield f"<table><tr><th>status</th><th></th><th></th></tr>{''.join(rows)}</table>"


def _answer_schema(answer: dict[str, Any]) -> str:
    contents: list[dict[str, Any]] = list(answer.get("content", {}).values())
    schema: dict[str, Any] = contents[0]["schema"] if contents else {}
    return _reference(schema.get("properties", {}).get("data", schema))


def _reference(schema: dict[str, Any]) -> str:
    if "$ref" not in schema:
        return ""
    name = escape(schema["$ref"].rsplit("/", 1)[1])
    return f'<a href="#schema-{name}"><code>{name}</code></a>'


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return (
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>'
    )
