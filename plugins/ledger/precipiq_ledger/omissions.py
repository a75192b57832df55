"""What a verification left out, in sentences for its verdict. Pure."""

from __future__ import annotations

from precipiq_contracts.chain import Chain
from precipiq_contracts.ledger import ChainBreak, CheckpointComparison
from precipiq_ledger.anchors import CODES_OF_EVIDENCE
from precipiq_macs.entry_macs import ALL, MacCheck


def after_break(broken: ChainBreak) -> list[str] | None:
    """Of a chain whose entries do not hold; None for a fault that the evidence outside the database gave rise to."""
    if broken.code in CODES_OF_EVIDENCE:
        return None
    return [f"whatever comes after entry {broken.seq}", "the checkpoints, since the entries do not hold"]


def of_range(checked: range, last_seq: int) -> list[str]:
    """Of a chain that ends with ``last_seq``: the entries on both sides of those that were checked."""
    sentences = []
    if checked.start > 1:
        sentences.append(f"the entries before {checked.start}, whose last hash was taken as given")
    if checked.stop <= last_seq:
        sentences.append(f"the entries after {checked.stop - 1}")
    return sentences


def of_anchors(checked: range, comparison: CheckpointComparison) -> list[str]:
    """What no checkpoint of a checked entry confirms."""
    if comparison.newest_seq is None and comparison.compared_count:
        return ["whether these entries were rewritten: no checkpoint of one of them counts"]
    if comparison.newest_seq is None:
        return ["whether the whole chain was replaced: no checkpoint of it is held outside the database"]
    if comparison.newest_seq < checked.stop - 1:
        return [f"whether entries after {comparison.newest_seq} were rewritten: no checkpoint of them is held"]
    return []


def of_macs(macs: MacCheck, checked: range) -> list[str]:
    """Whose MACs could not be checked."""
    if not checked or checked.start > macs.exempt_through:
        return []
    if macs.exempt_through == ALL:
        return ["whether servers of this deployment made those entries that have no MAC: the upgrade is not over"]
    who = f"whether servers of this deployment made the entries {checked.start} to "
    return [f"{who}{min(macs.exempt_through, checked.stop - 1)}: they were adopted, being older"]


def nothing(chain: Chain, from_seq: int, through_seq: int | None) -> str:
    """Why a verification checked no entry."""
    where = f"there is no entry of {chain.org_id} in the environment {chain.environment}"
    return f"{where}{'' if through_seq is None else f' from {from_seq} to {through_seq}'}: nothing was checked"
