"""``[server]``: where and how Hypercorn serves the deployment. See ``precipiq_contracts.server`` for the rest of it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from precipiq_contracts.server import ServerSettings
from precipiq_contracts.settings import BASE_DIR, Settings


class TlsSettings(Settings):
    """``[server.tls]``: certificate and key, PEM; relative paths start at the data directory."""

    certificate_file: Path = Field(description="certificate chain, PEM")
    key_file: Path = Field(description="private key, PEM, unencrypted")

    @field_validator("certificate_file", "key_file")
    @classmethod
    def _anchor(cls, value: Path, info: ValidationInfo) -> Path:
        base = (info.context or {}).get(BASE_DIR)
        return value if base is None else Path(base) / value


class HypercornConfig(ServerSettings):
    """The server's limits and times."""

    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="networks whose Forwarded, or X-Forwarded-For and X-Forwarded-Proto, are believed"
    )
    tls: TlsSettings | None = Field(None, description="serve https; without it, http")
    drain_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="time for running requests to end at SIGTERM, seconds"
    )
    connections_max: int | None = Field(
        None,
        ge=1,
        description="open connections, and further requests at the same time on HTTP/2, in each process; by default, "
        "and at most, three quarters of its open files, and no more than 10,000 by default",
    )
    connections_per_address_max: int = Field(
        2500,
        ge=1,
        description="the same for one address (IPv6: one /64 network); at most half of `connections_max`; trusted "
        "proxies are bounded by that alone",
    )
    backlog: int = Field(1024, ge=1, le=65_535, description="connections that may wait to be accepted")
    keep_alive_timeout_s: float = Field(
        15.0, gt=0, le=86_400, description="idle time of a connection, and time for a request's head"
    )
    keep_alive_requests_max: int = Field(1_000_000, ge=1, le=2**53, description="requests of one connection")
    h2_streams_max: int = Field(100, ge=1, le=10_000, description="requests at the same time on one HTTP/2 connection")
    h2c: bool = Field(
        False,
        description="serve HTTP/2 without TLS, to clients that begin with it; an `Upgrade: h2c` is never obeyed: it "
        "passes the rules of proxies",
    )
    tiny_frames_per_second_max: int = Field(
        1000,
        ge=10,
        description="HTTP/2 frames that carry next to nothing from a client in a second, on average: more end its "
        "connection (ENHANCE_YOUR_CALM); and pieces of a body below 64 bytes: more are read later",
    )
    websocket_message_bytes_max: int = Field(
        64 * 1024, ge=1024, le=2**30, description="largest message from a client, bytes"
    )
    websocket_frames_per_second_max: int = Field(
        1000, ge=10, description="frames from a client in a second, of any kind; more end its WebSocket"
    )
    websocket_ping_interval_s: float = Field(30.0, gt=0, le=86_400, description="time between pings, seconds")
    socket_send_buffer_bytes: int = Field(
        64 * 1024, ge=4096, le=2**30, description="kernel memory for a client that does not read"
    )
    tcp_user_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="time until the kernel gives such a client up, and the server a stream of HTTP/2 of which "
        "less than 4 KiB was taken, seconds",
    )
    close_timeout_s: float = Field(
        5.0, gt=0, le=3600, description="time for a client to take what is left when its connection is closed, seconds"
    )

    @property
    def is_secure(self) -> bool:
        """Whether it serves https."""
        return self.tls is not None
