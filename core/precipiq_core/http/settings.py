"""``[http]``: the limits of one request."""

from __future__ import annotations

from pydantic import Field

from precipiq_contracts.settings import Settings


class HttpSettings(Settings):
    """Limits of requests and of lists; a capability."""

    body_bytes_max: int = Field(10 * 1024 * 1024, ge=1024, description="largest request body, bytes")
    keyless_body_memory_bytes_max: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description="memory for the bodies that one endpoint without a key reads, without 64 KiB of each, bytes",
    )
    body_timeout_s: float = Field(30.0, gt=0, description="time for a request body to arrive, seconds")
    handler_timeout_s: float = Field(60.0, gt=0, description="time for an answer to begin, seconds")
    download_stall_timeout_s: float = Field(
        60.0,
        gt=0,
        description="time for a client to take 64 KiB of a download, or another answer, seconds; on Linux one that "
        "takes nothing at all ends with `server.tcp_user_timeout_s`",
    )
    depth_max: int = Field(64, ge=4, le=200, description="nesting of a request body, levels")
    nodes_max: int = Field(
        150_000, ge=1000, description="JSON values and names in a request body; the member of an object is two"
    )
    bodies_memory_bytes_max: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description="memory of request bodies above 16 KiB and of what is parsed from them, bytes; one organisation's "
        "environment has half of it, or what one body of the largest size may take",
    )
    list_limit_default: int = Field(50, ge=1, description="items of a page when the caller names no limit")
    list_limit_max: int = Field(500, ge=1, description="items of a page at most")
    page_bytes_max: int = Field(
        1024 * 1024, ge=1024, description="statements and payloads of a page of entries, bytes; one larger is a page"
    )
    answers_memory_bytes_max: int = Field(
        64 * 1024 * 1024,
        ge=8 * 1024 * 1024,
        description="memory of answers above 64 KiB that are not taken yet, bytes; one environment has a quarter",
    )
