"""An intruder who can write the database, and nothing else: he has no key, and reads no server's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precipiq_contracts.database import Database, Scalar, Statement


class Forger:
    """Writes one table as he likes. ``where``: a condition in SQL, with the values in it."""

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self._table = table

    async def rows(self, where: str = "1 = 1") -> list[dict[str, Any]]:
        """Whole rows, for putting them back later."""
        return [
            dict(row)
            for row in await self._database.fetch(Statement(f"SELECT * FROM {self._table} WHERE {where} ORDER BY 1"))
        ]

    async def insert(self, row: Mapping[str, Scalar]) -> None:
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        await self._do(f"INSERT INTO {self._table} ({names}) VALUES ({values})", row)

    async def change(self, where: str, **values: Scalar) -> None:
        setting = ", ".join(f"{name} = :{name}" for name in values)
        await self._do(f"UPDATE {self._table} SET {setting} WHERE {where}", values)

    async def delete(self, where: str = "1 = 1") -> None:
        await self._do(f"DELETE FROM {self._table} WHERE {where}", {})

    async def put_back(self, rows: list[dict[str, Any]]) -> None:
        """The table as it was then, MACs and all."""
        await self.delete()
        for row in rows:
            await self.insert(row)

    async def _do(self, sql: str, values: Mapping[str, Scalar]) -> None:
        await self._database.transaction([Statement(sql, dict(values))])
