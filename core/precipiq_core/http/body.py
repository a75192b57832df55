"""Reading a request body: bounded in bytes and time, JSON only, never compressed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from precipiq_chain.canonical import Json
from precipiq_chain.strict_json import JsonRefused, loads
from precipiq_contracts.errors import Unavailable, ValidationFailed
from precipiq_core.http.errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from precipiq_core.http.settings import HttpSettings

RawHeaders = list[tuple[bytes, bytes]]

SMALL_BODY_BYTES = 64 * 1024
"""So much of each body counts for nothing in a ``BodyMemory``."""


class BodyMemory:
    """What bodies that are being read may hold together, beyond the first bytes of each."""

    def __init__(self, bytes_max: int) -> None:
        self.left_bytes = bytes_max

    def take(self, byte_count: int) -> None:
        """Raises ``Unavailable`` when there is not so much left."""
        if byte_count > self.left_bytes:
            raise Unavailable("too many large bodies at the same time")
        self.left_bytes -= byte_count


async def read_json(headers: RawHeaders, receive: Receive, limits: HttpSettings) -> Json:
    """The parsed body.

    Raises ``UnsupportedMediaType``, ``PayloadTooLarge``, ``RequestTimeout`` and ``ValidationFailed``.
    """
    _check_media_type(headers)
    raw = await read_raw(headers, receive, limits.body_bytes_max, limits.body_timeout_s)
    try:
        return loads(raw, max_depth=limits.depth_max)
    except JsonRefused as error:
        raise ValidationFailed(
            "the request body is not acceptable JSON", details={error.path or "body": [error.problem]}
        ) from None


async def read_raw(
    headers: RawHeaders, receive: Receive, bytes_max: int, timeout_s: float, memory: BodyMemory | None = None
) -> bytes:
    """The received body, byte for byte, for any media type. ``memory``: shared with the bodies of others.

    Raises ``UnsupportedMediaType`` (compressed), ``PayloadTooLarge``, ``RequestTimeout`` and ``Unavailable``.
    """
    _check_declared(headers, bytes_max)
    try:
        async with asyncio.timeout(timeout_s):  # around the first piece too: it may never come
            return bytes(await _read_pieces(receive, bytes_max, memory or BodyMemory(bytes_max)))
    except TimeoutError as error:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s") from error


def _check_declared(headers: RawHeaders, bytes_max: int) -> None:
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType("compressed request bodies are not accepted")
        if name == b"content-length":
            declared_bytes = int(value) if value.isdigit() and len(value) < 20 else bytes_max + 1
            if declared_bytes > bytes_max:
                raise _too_large(bytes_max)


def _check_media_type(headers: RawHeaders) -> None:
    content_type = next((value for name, value in reversed(headers) if name == b"content-type"), b"")
    media_type, _, parameters = content_type.partition(b";")
    if media_type.strip().lower() != b"application/json":
        raise UnsupportedMediaType("the content-type must be application/json")
    charset = parameters.strip(b" \t;").lower().replace(b'"', b"")
    if charset.startswith(b"charset=") and charset not in (b"charset=utf-8", b"charset=utf8"):
        raise UnsupportedMediaType("JSON is UTF-8")


async def _read_pieces(receive: Receive, bytes_max: int, memory: BodyMemory) -> bytes | bytearray:
    raw: bytes | bytearray = b""
    taken = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece: bytes = message.get("body", b"")
            size = len(raw) + len(piece)
            if size > bytes_max:
                raise _too_large(bytes_max)
            if not message.get("more_body"):
                return raw + piece if raw else piece  # the usual case: a single message, not copied
            if (needed := size - SMALL_BODY_BYTES - taken) > 0:
                memory.take(needed)
                taken += needed
            raw = bytearray(raw) if isinstance(raw, bytes) else raw
            raw += piece
    finally:
        memory.left_bytes += taken


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is larger than {bytes_max} bytes")
