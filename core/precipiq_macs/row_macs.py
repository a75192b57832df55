"""MACs of rows that grant something, so that a row counts only when a process with the master key wrote it.

``mac`` = HMAC-SHA256(``K``, text) in hex; ``K`` = HMAC-SHA256(root of entries' MACs, ``"rows"``). ``text`` is JSON, a
list of the table's name and the row's values by the sorted names of their columns: no row takes another's place.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Scalar
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.vault import MasterKey
from precipiq_macs.entry_macs import PURPOSE


@dataclass(frozen=True, slots=True)
class SealedValues:
    """What a row's MAC covers: the columns of that table that grant something, and those that name the row."""

    table: str
    values: Mapping[str, Scalar]

    @property
    def text(self) -> bytes:
        """The bytes that the MAC is made of."""
        return json.dumps([self.table, sorted(self.values.items())], separators=(",", ":")).encode()


class RowMacs:
    """Capability: the MACs of all plugins' rows. ``is_settled``: whether no row may lack its MAC any more.

    It is False in an installation whose rows, older than the MACs, have not been adopted yet, and while an upgrade lets
    servers of the version before make some.
    """

    def __init__(self, master_key: MasterKey) -> None:
        self._master_key = master_key
        self.is_settled: Callable[[], Awaitable[bool]] = _always

    async def make(self, row: SealedValues) -> str | None:
        """The row's MAC; None in an installation without a master key yet, whose first start adopts the row.

        Raises ``DeploymentError`` when the master key cannot be used, and ``Unavailable``.
        """
        try:
            return self.mac(row)
        except DeploymentError:
            if await self.is_settled():
                raise
            return None

    async def hold(self, row: SealedValues, mac: object) -> bool:
        """Whether the row may have that MAC. Raises ``Unavailable``.

        Until all is settled it may have any: a server of the version before changes a row and leaves its MAC.
        """
        return (mac is not None and self.matches(row, mac)) or not await self.is_settled()

    def mac(self, row: SealedValues) -> str:
        """The row's MAC: 64 hex digits. Blocks about 50 ms the first time. Raises ``DeploymentError``."""
        key = hmac.digest(self._master_key.derive(PURPOSE), b"rows", "sha256")
        return hmac.digest(key, row.text, "sha256").hex()

    def mac_if_there_is_a_key(self, row: SealedValues) -> str | None:
        """The row's MAC; None while the master key cannot be used. For a row that is written beside one of its own."""
        try:
            return self.mac(row)
        except DeploymentError:
            return None

    def matches(self, row: SealedValues, mac: object) -> bool:
        """Whether that is the row's MAC. Somebody else may have put values of any type into the row."""
        try:
            return isinstance(mac, str) and mac.isascii() and hmac.compare_digest(mac, self.mac(row))
        except (TypeError, ValueError):
            return False


async def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class RowFinding:
    """A row that the chain does not announce as it stands, or one that is missing. ``row``: its id; a sentence."""

    code: str
    row: str
    reason: str


KEY_UNANCHORED = "KEY_UNANCHORED"
"""Of a row with a key that signs evidence, which the chain does not announce."""

ROW_UNANNOUNCED = "ROW_UNANNOUNCED"
"""Of any other row that grants something which the chain does not."""


class TrustedRows(Protocol):
    """A value of the hook ``trusted_rows``: a table whose rows grant something, compared with what the chain says."""

    name: str
    """Unique; the table's."""

    def chains(self) -> AsyncIterator[Chain]:
        """The chains that have rows."""
        ...

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """Compare the rows of that chain. Raises ``Unavailable``."""
        ...

    async def adopt(self) -> None:
        """Give their MACs to the rows, older than these, that their chains announce: once in an installation's life.

        Called again when an earlier call ended early. Raises ``Unavailable``.
        """
        ...
