"""Reading a request body: bounded in bytes and time, JSON only, never compressed."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from precipiq_chain.strict_json import JsonRefused, has_more_nodes, loads
from precipiq_contracts.errors import ValidationFailed
from precipiq_core.http.errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from precipiq_core.http.request_work import UNCOUNTED_BYTES, BodyWork
from precipiq_core.http.settings import HttpSettings
from precipiq_core.http.validation import ModelT, parse_body

RawHeaders = list[tuple[bytes, bytes]]


async def read_json(
    model: type[ModelT], headers: RawHeaders, receive: Receive, limits: HttpSettings, work: BodyWork
) -> ModelT:
    """The parsed and checked body.

    Raises ``UnsupportedMediaType``, ``PayloadTooLarge``, ``RequestTimeout``, ``Unavailable`` and ``ValidationFailed``.
    """
    _check_media_type(headers)
    raw = await read_raw(headers, receive, limits.body_bytes_max, limits.body_timeout_s, work)
    work.weigh(raw)
    return await work.run(partial(_parse, model, raw, limits))


def _parse(model: type[ModelT], raw: bytes | bytearray, limits: HttpSettings) -> ModelT:
    if len(raw) > limits.nodes_max and has_more_nodes(raw, limits.nodes_max):
        raise PayloadTooLarge(f"the request body holds more than {limits.nodes_max} JSON values and names")
    try:
        value = loads(raw, max_depth=limits.depth_max)
    except JsonRefused as error:
        raise ValidationFailed(
            "the request body is not acceptable JSON", details={error.path or "body": [error.problem]}
        ) from None
    return parse_body(model, value)


async def read_raw(
    headers: RawHeaders, receive: Receive, bytes_max: int, timeout_s: float, work: BodyWork
) -> bytes | bytearray:
    """The received body, byte for byte, for any media type. A large one first waits for its share of memory.

    Raises ``UnsupportedMediaType`` (compressed), ``PayloadTooLarge``, ``RequestTimeout`` and ``Unavailable``.
    """
    declared_bytes = _declared_bytes(headers, bytes_max)
    is_held = declared_bytes is not None and declared_bytes > UNCOUNTED_BYTES
    if is_held:
        await work.hold(declared_bytes or 0)
    raw = bytearray()
    try:
        async with asyncio.timeout(timeout_s):  # around the first piece too: it may never come
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")  # the usual case: a single message, not copied
                if len(body) > bytes_max:
                    raise _too_large(bytes_max)
                return body
            pause_bytes = bytes_max if is_held else UNCOUNTED_BYTES
            is_whole = await _read_pieces(receive, raw, bytes_max, pause_bytes, work, message)
        if not is_whole:
            await work.hold(bytes_max)
            async with asyncio.timeout(timeout_s):
                await _read_pieces(receive, raw, bytes_max, bytes_max, work)
    except TimeoutError as error:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s") from error
    return raw


def _declared_bytes(headers: RawHeaders, bytes_max: int) -> int | None:
    declared_bytes = None
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType("compressed request bodies are not accepted")
        if name == b"content-length":
            declared_bytes = int(value) if value.isdigit() and len(value) < 20 else bytes_max + 1
    if declared_bytes is not None and declared_bytes > bytes_max:
        raise _too_large(bytes_max)
    return declared_bytes


def _check_media_type(headers: RawHeaders) -> None:
    content_type = next((value for name, value in reversed(headers) if name == b"content-type"), b"")
    media_type, _, parameters = content_type.partition(b";")
    if media_type.strip().lower() != b"application/json":
        raise UnsupportedMediaType("the content-type must be application/json")
    charset = parameters.strip(b" \t;").lower().replace(b'"', b"")
    if charset.startswith(b"charset=") and charset not in (b"charset=utf-8", b"charset=utf8"):
        raise UnsupportedMediaType("JSON is UTF-8")


async def _read_pieces(
    receive: Receive, raw: bytearray, bytes_max: int, pause_bytes: int, work: BodyWork, message: object = None
) -> bool:
    """Add what arrives to ``raw`` until the body is whole, or larger than ``pause_bytes``; whether it is whole."""
    current = message if isinstance(message, dict) else await receive()
    while True:
        if current["type"] == "http.disconnect":
            raise ClientDisconnect
        raw += current.get("body", b"")
        if len(raw) > bytes_max:
            raise _too_large(bytes_max)
        if not current.get("more_body"):
            return True
        work.note_arrived(len(raw))
        if len(raw) > pause_bytes:
            return False
        current = await receive()


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is larger than {bytes_max} bytes")
