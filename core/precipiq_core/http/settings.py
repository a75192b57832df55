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
        description="memory for the bodies that one endpoint without a key reads at the same time, without the first "
        "64 KiB of each, bytes; more get 503",
    )
    body_timeout_s: float = Field(30.0, gt=0, description="time for a request body to arrive, seconds")
    handler_timeout_s: float = Field(60.0, gt=0, description="time for an answer to begin, seconds")
    download_stall_timeout_s: float = Field(
        60.0,
        gt=0,
        description="time for a client to take the next 64 KiB of a download, seconds; on Linux one that takes nothing "
        "at all ends with `server.tcp_user_timeout_s`",
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
