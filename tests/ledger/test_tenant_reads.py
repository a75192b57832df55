"""A tenant's request reads as the tenant: it needs neither the role nor the connection that sees every tenant."""

from __future__ import annotations

from pathlib import Path
from typing import Never

import pytest

from precipiq_billing.kinds import FINANCIAL_EVENT
from precipiq_billing.service import FinancialEvents
from precipiq_chain.chain_format import statement_id
from precipiq_contracts.chain import Chain, Draft, EntryKind
from precipiq_postgres.entries.audit import PostgresAuditor
from precipiq_sqlite.entries.audit import SqliteAuditor
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess
from tests.system.client import Client
from tests.system.open_ledger import open_ledger, serve_kinds

CHAIN = Chain("org_a", "test")
OTHER = Chain("org_b", "test")
BODY: dict[str, object] = {"agent_id": "a", "action_type": "b"}


@pytest.fixture
def no_auditor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No auditor of this process opens a connection."""

    def refused(auditor: object) -> Never:
        raise AssertionError("an auditor was asked")

    monkeypatch.setattr(SqliteAuditor, "_open", refused)
    monkeypatch.setattr(PostgresAuditor, "_open", refused)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_auditor")
async def test_erased_entries_are_shown_without_an_auditor(
    server_database: PostgresDatabase | None, tmp_path: Path
) -> None:
    async with open_ledger(server_database, tmp_path, []) as (_, ledger):
        serve_kinds(ledger, [EntryKind(FINANCIAL_EVENT, "money moved")])
        shown: dict[str, list[bytes]] = {}
        redaction_ids = {}
        for kind in ("decision", FINANCIAL_EVENT):
            for chain in (OTHER, CHAIN):
                made = await ledger.append(chain, [Draft(kind, "system", BODY, {"metadata": None}, None)])
                redaction = await ledger.redact(
                    chain, statement_id(made.entries[0].statement), kind, "asked for", "system"
                )
                redaction_ids[kind] = statement_id(redaction.statement)
            entry = await ledger.get(CHAIN, statement_id(made.entries[0].statement))
            assert entry is not None
            present = ledger.present_decisions if kind == "decision" else FinancialEvents(ledger).present
            shown[kind] = await present(CHAIN, [entry])
    for kind, [record] in shown.items():
        assert f'"redaction_id":"{redaction_ids[kind]}"'.encode() in record


@pytest.mark.parametrize("database", [pytest.param("postgres", marks=pytest.mark.system)], scope="module")
def test_every_answer_of_a_tenant_comes_without_the_auditors_rights(server: ServerProcess) -> None:
    assert server.postgres is not None
    server.postgres.sql(f'REVOKE SELECT ON precipiq.entries FROM "{server.postgres.runtime_role}_auditor"')
    client = Client(server)
    event = {"source": "manual", "event_type": "payment", "amount": "1.00", "currency": "USD"}
    decision_id = client.decide(0)["decision_id"]
    event_id = client.data("POST", "/financial-events", json=event)["id"]
    for path in (f"/decisions/{decision_id}", f"/financial-events/{event_id}"):
        redacted = client.data("POST", f"{path}/redact", json={"reason": "asked for"})
        collection = path.rpartition("/")[0]
        for record in (client.data("GET", path), *client.data("GET", collection)["items"]):
            assert record["redaction_id"] == redacted["redaction_id"]
    assert client.data("GET", "/ledger/entries")["items"]
    refused = client.http.get("/decisions/chain/verify")
    assert refused.status_code == 503, "the control: verification does ask the auditor"
