"""The check of rows of deliveries and registers before they are used: who wrote them, and whether they fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from precipiq_billing.delivery_rows import StoredDelivery, delivery_of, sealed_delivery, sealed_register
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Row
from precipiq_contracts.errors import Unavailable
from precipiq_core.chain_columns import chain_in
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding, RowMacs
from precipiq_macs.row_reports import NOT_OURS, RowReports


class DeliveryCheck:
    """Gives what counts of rows. A row that does not count is left as it is, and logged once."""

    def __init__(self, macs: RowMacs) -> None:
        self._macs = macs
        self._reports = RowReports("precipiq.billing", "a row of Stripe's deliveries does not count: it books nothing")

    async def ours(self, rows: Sequence[Row]) -> list[StoredDelivery]:
        """The deliveries that this deployment stored. Raises ``Unavailable``."""
        found: list[StoredDelivery] = []
        for row in rows:
            if await self._macs.hold(sealed_delivery(row), _mac(row)):
                found.append(delivery_of(row))
            else:
                self._reports.note(chain_in(row), [RowFinding(ROW_UNANNOUNCED, str(row["event_id"]), NOT_OURS)])
        return found

    async def register_problem(self, row: Row, differences: int) -> str | None:
        """Why a register does not count; ``differences``: the sum of those of its deliveries."""
        mac = _mac(row)
        if not await self._macs.hold(sealed_register(row), mac):
            return NOT_OURS
        if mac is None or not self._macs.matches(sealed_register(row), mac):
            return None  # not settled: a server of the version before changes it
        due = (cast("int | None", row["base"]) or 0) + differences
        return None if row["booked"] == due else f"its deliveries make {due}, and it says {row['booked']!s}"

    async def problems(
        self, registers: Mapping[str, Row], deliveries: Sequence[StoredDelivery]
    ) -> Sequence[tuple[str, str]]:
        """Why registers, by their names, do not fit these deliveries, which are all that added something to them."""
        sums = {each.register: 0 for each in deliveries}
        for each in deliveries:
            sums[each.register] += each.difference
        found = [(name, "its deliveries are there, and it is gone") for name in sums if name not in registers]
        for name, row in registers.items():
            problem = await self.register_problem(row, sums.get(name, 0))
            if problem is not None:
                found.append((name, problem))
        return found

    def refuse(self, chain: Chain, problems: Sequence[tuple[str, str]]) -> Unavailable:
        """The error of a delivery that is not taken because of these registers: its sender tells it again."""
        self._reports.note(chain, [RowFinding(ROW_UNANNOUNCED, name, problem) for name, problem in problems])
        return Unavailable(f"{ROW_UNANNOUNCED}: the register of this object is not as it was left: see the log")


def _mac(row: Row) -> str | None:
    return cast("str | None", row["mac"])
