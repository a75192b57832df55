"""The address of the Redis server that counts rate limits, and the bounds of its use. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

PORT_DEFAULT = 6379

_FORM = "write redis://HOST:PORT/DATABASE, or rediss:// for TLS"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """``timeout_s`` bounds a request's whole wait for Redis: a free connection, connecting, the answer."""

    host: str
    port: int = PORT_DEFAULT
    database: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_s: float = 0.25
    connections_max: int = 10

    @property
    def address(self) -> str:
        """The address in log lines."""
        return f"{self.host}:{self.port}/{self.database}"


def parse_redis_url(url: str) -> RedisServer:
    """Parse the URL. Raises ``ValueError`` with a sentence that repeats no part of ``url``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"is not a URL; {_FORM}") from None
    # Checked first: the password must leave the file, whatever other problem the URL has.
    if parts.password is not None:
        raise ValueError("must hold no password: name its place in rate_limit_redis_password, and remove it here")
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"needs the scheme redis or rediss; {_FORM}")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError(f"takes no options after ? or #; {_FORM}")
    if not parts.hostname:
        raise ValueError(f"names no host; {_FORM}")
    return RedisServer(
        host=parts.hostname,
        port=PORT_DEFAULT if port is None else port,
        database=_database(parts),
        tls=parts.scheme == "rediss",
        username=unquote(parts.username) if parts.username else None,
    )


def _database(parts: SplitResult) -> int:
    text = parts.path.removeprefix("/")
    if text and not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise ValueError(f"names no database by number; {_FORM}")
    return int(text or 0)
