"""Roles on PostgreSQL: their names, and the statements with which a transaction takes a role and a tenant.

``x`` (serves; sees one tenant at a time), ``x_system`` (the deployment: every tenant's rows of plugins' tables),
``x_auditor`` (reads everything, writes nothing), ``x_owner`` (owns the schema; used by migrations alone).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from precipiq_contracts.chain import Chain

OLDEST = "oldest revision of a server that may run: "
"""Begins the comment on the column of a version table that says which versions may still serve."""

SCHEMA = "precipiq"
ORG_SETTING = "precipiq.org_id"
ENVIRONMENT_SETTING = "precipiq.environment"

READ_COMMITTED = "BEGIN ISOLATION LEVEL READ COMMITTED"


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of one deployment. ``runtime``: the one that serves, from the database's URL."""

    runtime: str

    @property
    def system(self) -> str:
        return f"{self.runtime}_system"

    @property
    def auditor(self) -> str:
        return f"{self.runtime}_auditor"

    @property
    def owner(self) -> str:
        return f"{self.runtime}_owner"

    def begin_as_system(self, *, read_only: bool = False) -> str:
        """Begins a transaction that reads, or reads and writes, for the whole deployment."""
        access = " READ ONLY" if read_only else ""
        return f"{READ_COMMITTED}{access}; SET LOCAL ROLE {quoted(self.system)}"

    def begin_as_auditor(self) -> str:
        """Begins a transaction that reads everything, from one snapshot."""
        return f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL ROLE {quoted(self.auditor)}"


@lru_cache(maxsize=4096)
def begin_as(chain: Chain, *, read_only: bool = True) -> str:
    """Begins a transaction that sees that tenant alone: two statements, one message to the server."""
    access = " READ ONLY" if read_only else ""
    return (
        f"{READ_COMMITTED}{access}; SELECT set_config('{ORG_SETTING}', {literal(chain.org_id)}, true), "
        f"set_config('{ENVIRONMENT_SETTING}', {literal(chain.environment)}, true)"
    )


def literal(text: str) -> str:
    """Text as an SQL expression that holds nothing but hexadecimal digits of it."""
    return f"convert_from(decode('{text.encode().hex()}', 'hex'), 'UTF8')"


def quoted(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'
