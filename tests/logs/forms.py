"""The forms in which a secret travels, and the levels at which it could be logged."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO}


def _percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": _percent,
    "double-percent": lambda text: _percent(text).replace("%", "%25"),
    "half-percent": lambda text: "".join(_percent(c) if i % 2 else c for i, c in enumerate(text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64-shifted": lambda text: base64.urlsafe_b64encode(b"u:" + text.encode()).decode(),
    "base64-wrapped": lambda text: base64.encodebytes(b"?" * 50 + text.encode() + b">" * 50).decode(),
    "json-escaped": lambda text: "".join(f"\\u{ord(c):04X}" for c in text),
    "json-in-json": lambda text: json.dumps(json.dumps({"k": text}).replace("_", "\\u005f")),
    "bytes-repr": lambda text: repr(text.encode()),
    "hex-escaped": lambda text: "b'" + "".join(f"\\x{ord(c):02x}" for c in text) + "'",
    "hex": lambda text: text.encode().hex(),
    "upper": str.upper,
    "lower": str.lower,
}
