"""Links and estimates in the shapes of the contract. Pure."""

from __future__ import annotations

from typing import Any

from precipiq_chain.chain_format import Statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import format_moment, format_timestamp
from precipiq_outcomes.amounts import plain
from precipiq_outcomes.links import Link


def link_record(chain: Chain, link: Link) -> dict[str, Any]:
    """A link. ``status``: only an active link counts. ``score``: the parts of the worker's score."""
    return {
        "id": link.link_id,
        "org_id": chain.org_id,
        "environment": chain.environment,
        "decision_id": link.decision_id,
        "financial_event_id": link.event_id,
        "correlation_strength": link.strength,
        "attribution_method": link.method,
        "link_type": link.link_type,
        "notes": link.notes,
        "status": link.status,
        "agent_id": link.agent_id,
        "action_type": link.action_type,
        "amount": plain(link.amount),
        "currency": link.currency,
        "score": link.score,
        "seq": link.seq,
        "created_at": format_timestamp(link.created_us),
        "confirmed_at": format_moment(link.confirmed_us),
        "rejected_at": format_moment(link.rejected_us),
        "deleted_at": format_moment(link.deleted_us),
    }


def estimate_record(statement: Statement, entry_hash: str) -> dict[str, Any]:
    """A recorded liability estimate, from its entry."""
    return {
        "id": statement.id,
        "org_id": statement.org_id,
        "environment": statement.environment,
        **statement.body,
        "rationale": rationale(statement.body),
        "seq": statement.seq,
        "hash": entry_hash,
        "created_at": statement.timestamp,
    }


def rationale(body: Any) -> str:
    """The reasons of an estimate, as a sentence."""
    return (
        f"{body['base']} {body['currency']} for {body['action_type']} x {body['confidence_factor']} for confidence "
        f"x {body['human_factor']} for human review x loss rate {body['loss_rate']} (at least 0.10; "
        f"{body['past_losses']} of {body['past_decisions']} decisions of the agent and type had a cost or liability)"
    )
