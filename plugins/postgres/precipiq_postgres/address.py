"""The address and the role of a PostgreSQL, checked at boot; the password stays where its reference says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.secret_location import SecretLocation
from precipiq_postgres.config import PostgresConfig

APPLICATION_NAME = "precipiq"

_COMMAND_TIMEOUT_S = 60.0
_SCHEMES = ("postgresql", "postgres")
_ROLE_BYTES_MAX = 54  # PostgreSQL cuts names after 63 bytes, and "_auditor" is to fit behind


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """A checked URL and the reference of its password. Can be pickled; holds no secret."""

    url: str
    password: SecretLocation | None

    @property
    def role(self) -> str:
        """The role that connects."""
        return unquote(urlsplit(self.url).username or "")

    @property
    def shown(self) -> str:
        """Host, port and database, for people."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or 'local'}:{parts.port or 5432}{parts.path}"

    def options(self) -> dict[str, Any]:
        """Options of ``asyncpg.connect``. Each connection reads the password anew, so it can be changed meanwhile."""
        # All five are named: `databases` names them too, and leaves out what the URL's query says of them.
        return {
            "dsn": self.url,
            "host": None,
            "port": None,
            "user": None,
            "database": None,
            "password": None if self.password is None else self.password.reveal,
            "command_timeout": _COMMAND_TIMEOUT_S,
            "server_settings": {"application_name": APPLICATION_NAME},
        }


def check_addresses(settings: PostgresConfig) -> None:
    """Check both URLs. Raises ``DeploymentError`` with every problem of either."""
    urls = {"url": settings.url, "migrate_url": settings.migrate_url, "listen_url": settings.listen_url}
    problems = [
        problem
        for name, url in urls.items()
        if url is not None
        for problem in address_problems(f"database.{name}", url)
    ]
    if settings.transaction_pooler and settings.listen_url is None:
        problems.append("database.listen_url: is needed behind a pooler, which does not pass notifications on")
    if problems:
        raise DeploymentError(problems)


def address_problems(where: str, url: str) -> list[str]:
    """A sentence for each problem of a URL."""
    problems = []
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return [f"{where}: is not a URL: write postgresql://role@host:port/database"]
    if parts.scheme not in _SCHEMES or not parts.username or len(parts.path) < 2 or parts.fragment or port == 0:
        problems.append(f"{where}: write postgresql://role@host:port/database, with what TLS needs in its query")
    if parts.password is not None or any(name == "password" for name, _ in parse_qsl(parts.query)):
        key = where.rpartition(".")[2].replace("url", "password").replace("listen_", "")
        problems.append(f'{where}: must not hold a password; say where it lies: {key} = {{ env = "NAME" }}')
    if len(unquote(parts.username or "").encode()) > _ROLE_BYTES_MAX:
        problems.append(f"{where}: a role's name has at most {_ROLE_BYTES_MAX} bytes here")
    return problems
