"""Two marks that an installation's chains were adopted: a row in the database, and a file beside the checkpoints.

Either is enough, so that no change of the database alone brings another adoption. Each is written where it is missing.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from precipiq_contracts.database import Database, Statement
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_core.key_files import make_folder, sync, write_private

log = structlog.get_logger("precipiq.ledger")

CHAINS, ROWS = "adopted", "rows_adopted"
"""The names of the marks, and of their files: of the chains, and of the rows that grant something."""

_TEXTS = {CHAINS: b"precipiq adoption\n", ROWS: b"precipiq adoption of rows\n"}
_SELECT = "SELECT name, mac FROM ledger_marks"
_INSERT = "INSERT INTO ledger_marks (name, mac) VALUES (:name, :mac) ON CONFLICT (name) DO NOTHING"


class AdoptionMarks:
    """``root``: gives the root of the MACs' keys. ``database`` None: there is the file alone. ``name``: a mark's.

    A mark with a wrong MAC counts too: what somebody else wrote must not make chains be adopted.
    """

    def __init__(self, folder: Path, database: Database | None, root: Callable[[], bytes], name: str = CHAINS) -> None:
        self._name = name
        self._folder = folder
        self._database = database
        self._root = root

    async def are_there(self) -> bool:
        """Whether there is one. Raises ``Unavailable``."""
        return await self._file() is not None or self._name in await self._rows()

    async def complete(self) -> None:
        """Write each mark that is missing, durable on return; cry out one that is forged.

        Raises ``DeploymentError`` when all that are there are: what this process would seal, no other would believe.
        """
        mac = await asyncio.to_thread(self._mac)
        written, row = await self._file(), (await self._rows()).get(self._name)
        if self._database is not None and row is None:
            if written is not None:
                log.critical(
                    "the mark of the adoption was gone from the database: it was taken, or an old copy restored"
                )
            await self._database.transaction([Statement(_INSERT, {"name": self._name, "mac": mac})])
            row = (await self._rows()).get(self._name)  # another machine may have been first
        found = {"file": written, "database": row}
        wrong = [where for where, text in found.items() if text is not None and text != mac]
        if wrong and mac not in found.values():
            raise DeploymentError([
                "secrets.master_key is not the key under which this deployment's entries are sealed, by the mark of "
                f"their adoption ({' and '.join(wrong)}): every machine needs the same, for good"
            ])  # fmt: skip
        if wrong:
            log.critical("the mark of the adoption has a wrong MAC: somebody altered it", where=wrong[0])
        if written is None:
            await asyncio.to_thread(self._write, mac)

    async def _rows(self) -> dict[str, str]:
        rows = [] if self._database is None else await self._database.fetch(Statement(_SELECT))
        return {str(row["name"]): str(row["mac"]) for row in rows}

    async def _file(self) -> str | None:
        return await asyncio.to_thread(self._read)

    def _read(self) -> str | None:
        try:
            with (self._folder / self._name).open("rb") as stream:
                return stream.read(65).strip().decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"the folder of checkpoints cannot be read: {error.strerror}") from error

    def _write(self, mac: str) -> None:
        try:
            make_folder(self._folder)
            part = self._folder / f".{self._name}.{os.getpid()}"
            part.unlink(missing_ok=True)
            write_private(part, mac + "\n")
            part.replace(self._folder / self._name)
            sync(self._folder)
        except OSError as error:
            raise Unavailable(f"the folder of checkpoints cannot be written: {error.strerror}") from error

    def _mac(self) -> str:
        return hmac.digest(self._root(), _TEXTS[self._name], "sha256").hex()
