"""A chain in the columns of a plugin's row, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.database import Row, Scalar


def chain_values(chain: Chain) -> dict[str, Scalar]:
    """The chain as parameters of a statement."""
    return {"org_id": chain.org_id, "environment": chain.environment}


def chain_of_context(context: Mapping[str, str]) -> Chain | None:
    """The chain that the context of a wrapped secret names; None where it names none."""
    try:
        return Chain(context["org_id"], cast("Environment", context["environment"]))
    except KeyError:
        return None


def chain_in(row: Row) -> Chain:
    """The chain that a row belongs to."""
    return Chain(str(row["org_id"]), cast("Environment", row["environment"]))
