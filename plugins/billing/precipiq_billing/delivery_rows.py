"""Rows of deliveries and registers: what their MACs cover, and what one stands for. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from precipiq_billing.stripe_facts import Told, read_told
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Row, Scalar
from precipiq_core.chain_columns import chain_in
from precipiq_macs.row_macs import SealedValues

_SEALED = (
    "org_id", "environment", "event_id", "register", "total", "difference", "draft", "entry_id", "received_us",
    "version", "created_s", "told",
)  # fmt: skip
_SEALED_REGISTER = ("org_id", "environment", "register", "booked", "version", "base")

DELIVERY_COLUMNS = f"{', '.join(_SEALED)}, mac"
REGISTER_COLUMNS = f"{', '.join(_SEALED_REGISTER)}, mac"


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery as it is stored. ``difference``: Stripe's minor units to book, 0 for none.

    ``draft``: what its entry says but for the amount; None once it is sealed or there is nothing to seal. ``total``:
    what its register had reached with it. ``told`` and ``created_s``: what its event told, and when it happened; None
    where an older version stored it. ``values``: the row, as its MAC covers it.
    """

    chain: Chain
    event_id: str
    register: str
    total: int
    difference: int
    draft: Mapping[str, Any] | None
    entry_id: str | None
    received_us: int
    created_s: int | None
    told: Told | None
    values: Mapping[str, Scalar] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class RegisterState:
    """A register as it was read: how often it changed, what is booked of it, and the deliveries that it follows from.

    ``base``: what it began with; the rest of what is booked are its deliveries' differences. ``is_new``: there was
    none, and ``booked`` is what the registers of older versions hold in its place.
    """

    version: int
    booked: int
    base: int
    deliveries: Sequence[StoredDelivery]
    is_new: bool


NEW_REGISTER = RegisterState(0, 0, 0, (), is_new=True)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to store. ``total``: what its register has reached with it; ``draft``: None when nothing is booked."""

    event_id: str
    register: str
    total: int
    draft: Mapping[str, Any] | None
    created_s: int
    told: Told


def sealed_delivery(row: Mapping[str, Scalar]) -> SealedValues:
    """What the MAC of a delivery covers: everything."""
    return SealedValues("stripe_deliveries", {name: row[name] for name in _SEALED})


def sealed_register(row: Mapping[str, Scalar]) -> SealedValues:
    """What the MAC of a register covers: everything."""
    return SealedValues("stripe_registers", {name: row[name] for name in _SEALED_REGISTER})


def delivery_of(row: Row) -> StoredDelivery:
    """The delivery; the row has ``DELIVERY_COLUMNS`` and is this deployment's."""
    return StoredDelivery(
        chain_in(row),
        str(row["event_id"]),
        str(row["register"]),
        cast("int", row["total"]),
        cast("int", row["difference"]),
        None if row["draft"] is None else json.loads(str(row["draft"])),
        cast("str | None", row["entry_id"]),
        cast("int", row["received_us"]),
        cast("int | None", row["created_s"]),
        None if row["told"] is None else read_told(str(row["told"])),
        sealed_delivery(row).values,
    )
