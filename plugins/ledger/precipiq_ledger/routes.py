"""The ledger's endpoints: from the request's model to the service and back. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from precipiq_chain.entry_record import raw_entry
from precipiq_contracts.chain import GENESIS_HASH, Draft, Entry
from precipiq_contracts.clock import Clock, format_timestamp, parse_timestamp
from precipiq_contracts.entry_store import EntryQuery
from precipiq_contracts.errors import NotFound
from precipiq_core.entry_pages import find_page, read_page
from precipiq_core.http.cursors import decode_cursor, encode_cursor, page_limit
from precipiq_core.http.endpoint import REPLAYED, Call, Endpoint, NoBody, NoQuery, Reply
from precipiq_core.http.envelope import raw_json, success
from precipiq_core.http.redaction import RedactionIn, redact
from precipiq_core.http.settings import HttpSettings
from precipiq_ledger import models, records, verdict_models
from precipiq_ledger.config import LedgerConfig
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.late_answer import LateAnswer
from precipiq_ledger.row_trust import RowTrust
from precipiq_ledger.service import LedgerService
from precipiq_ledger.verifier import Verifier

_CURSOR = "seq"


def decision_draft(decision: models.DecisionIn, actor: str) -> Draft:
    """A decision as a draft: the body stays for ever, the payload can be erased on a person's request."""
    key = None if decision.external_id is None else f"external_id:{decision.external_id}"
    body = {name: getattr(decision, name) for name in records.BODY_FIELDS}
    payload = {name: getattr(decision, name) for name in records.PAYLOAD_FIELDS}
    return Draft(records.DECISION, actor, body, payload, key)


class LedgerRoutes:
    """Handlers of the ledger's endpoints."""

    def __init__(
        self,
        service: LedgerService,
        verifier: Verifier,
        integrity: Integrity,
        rows: RowTrust,
        config: LedgerConfig,
        http: HttpSettings,
        clock: Clock,
    ) -> None:
        self._service = service
        self._verifier = verifier
        self._integrity = integrity
        self._rows = rows
        self._config = config
        self._http = http
        self._clock = clock

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        by_id = {"id": "a decision's id"}
        return [
            Endpoint(
                "POST", "/decisions", self.create_decision, "write", models.Receipt, body=models.DecisionIn, status=201
            ),
            Endpoint(
                "POST",
                "/decisions/batch",
                self.create_decisions,
                "write",
                models.Receipts,
                body=models.batch_model(self._config.batch_entries_max),
                status=201,
                rate="batch",
            ),
            Endpoint("GET", "/decisions", self.list_decisions, "read", models.DecisionPage, query=models.DecisionQuery),
            Endpoint(
                "GET",
                "/decisions/chain/verify",
                self.verify_chain,
                "read",
                verdict_models.Verification,
                query=models.VerifyQuery,
            ),
            Endpoint("GET", "/decisions/{id}", self.get_decision, "read", models.Decision, path_parameters=by_id),
            Endpoint(
                "POST",
                "/decisions/{id}/redact",
                self.redact_decision,
                "admin",
                models.RedactionOut,
                body=RedactionIn,
                errors=("already_redacted", "nothing_to_redact"),
                path_parameters=by_id,
            ),
            Endpoint(
                "GET",
                "/ledger/entries",
                self.list_entries,
                "read",
                models.RawEntries,
                query=models.EntryQueryParameters,
            ),
            Endpoint("GET", "/ledger/head", self.get_head, "read", verdict_models.HeadOut),
            Endpoint("GET", "/ledger/usage", self.get_usage, "read", models.UsageOut),
            Endpoint("GET", "/ledger/integrity", self.get_integrity, "read", verdict_models.IntegrityOut),
        ]

    async def create_decision(self, call: Call[models.DecisionIn, NoQuery]) -> Reply:
        """Record a decision.

        Answers once the decision is durable. ``external_id`` and ``Idempotency-Key`` make a retry return the first
        receipt; the header ``Idempotent-Replayed: true`` then says so.
        """
        draft = decision_draft(call.body, call.principal.key_id)
        appended = await self._service.append_request(call.principal.chain, [draft], call.idempotency_key)
        headers = () if appended.created[0] else (REPLAYED,)
        return Reply(records.receipt(appended.entries[0]), headers=headers)

    async def create_decisions(self, call: Call[models.DecisionBatchIn, NoQuery]) -> Reply:
        """Record a batch of decisions: all or none, in the array's order."""
        drafts = [decision_draft(decision, call.principal.key_id) for decision in call.body.decisions]
        appended = await self._service.append_request(call.principal.chain, drafts, call.idempotency_key)
        receipts = [records.receipt(entry) for entry in appended.entries]
        headers = () if any(appended.created) else (REPLAYED,)
        return Reply({"receipts": receipts, "count": len(receipts)}, headers=headers)

    async def list_decisions(self, call: Call[NoBody, models.DecisionQuery]) -> object:
        """List decisions, newest first.

        ``metadata.KEY=VALUE`` finds decisions whose metadata has that value. A page may be short, of a filtered list
        even empty, while ``next_cursor`` is set: one request looks at a bounded number of entries and of bytes.
        """
        query = call.query
        fields = {"agent_id": query.agent_id, "action_type": query.action_type}
        wanted = EntryQuery(
            kind=records.DECISION,
            body={name: value for name, value in fields.items() if value is not None},
            metadata=query.metadata,
            start_us=None if query.start is None else parse_timestamp(query.start),
            end_us=None if query.end is None else parse_timestamp(query.end),
        )
        before = None if query.cursor is None else decode_cursor(_CURSOR, query.cursor)
        find = partial(self._service.find, call.principal.chain, wanted)
        page = await find_page(find, before, page_limit(query.limit, self._http), self._http.page_bytes_max)
        items = await self._records(page.entries)
        next_cursor = None if page.next_before_seq is None else encode_cursor(_CURSOR, page.next_before_seq)
        return {"items": items, "next_cursor": next_cursor}

    async def get_decision(self, call: Call[NoBody, NoQuery]) -> object:
        """Get a decision with its proof.

        ``hash`` is the SHA-256 of the canonical statement; ``payload_hash`` that of the canonical payload and salt.
        """
        entry = await self._service.get(call.principal.chain, call.path["id"])
        if entry is None or not records.is_decision(entry):
            raise NotFound
        return (await self._records([entry]))[0]

    async def redact_decision(self, call: Call[RedactionIn, NoQuery]) -> Reply:
        """Erase a decision's payload for good.

        Inputs, outputs, alternatives and metadata go, and their salt; the statement, its hash and its links stay
        proven. A redaction entry with the reason takes its place in the chain.
        """
        return await redact(self._service, call, records.DECISION, "decision_id")

    async def list_entries(self, call: Call[NoBody, models.EntryQueryParameters]) -> object:
        """Read the raw entries of the chain, oldest first: enough to verify it without our help.

        A page may be short while ``next_after_seq`` is set: an answer has a bounded number of bytes.
        """
        limit, query = page_limit(call.query.limit, self._http), call.query
        read = partial(self._service.read, call.principal.chain, kind=query.kind)
        entries, next_after = await read_page(read, query.after_seq, limit, self._http.page_bytes_max)
        return {"items": [raw_entry(entry) for entry in entries], "next_after_seq": next_after}

    async def get_head(self, call: Call[NoBody, NoQuery]) -> object:
        """Get the last entry's seq and hash; keep them, and nobody can cut the chain's tail without your noticing."""
        head = await self._service.head(call.principal.chain)
        return {"seq": 0, "hash": GENESIS_HASH} if head is None else {"seq": head.seq, "hash": head.hash}

    async def get_usage(self, call: Call[NoBody, NoQuery]) -> object:
        """Get how much this environment stores, and its quota: bytes of statements and payloads.

        Null: not counted yet, which takes a moment for a chain from before the count, or no quota.
        """
        usage, chain = self._service.usage, call.principal.chain
        return {"stored_bytes": await usage.load(chain), "stored_bytes_max": usage.limit_of(chain)}

    async def get_integrity(self, call: Call[NoBody, NoQuery]) -> object:
        """Get what the sweep found, which verifies every chain continually: no work is done for this answer.

        `whole`: every entry was verified within the operator's set time, and what came since. `broken`: see
        `first_broken_link`. `stale`: not verified in time. `not_checked`: not verified yet. `verdict` and what follows
        grade the last pass, in the words of `/decisions/chain/verify`.
        """
        return self._integrity.record(call.principal.chain)

    async def verify_chain(self, call: Call[NoBody, models.VerifyQuery]) -> LateAnswer:
        """Verify the chain: every hash, link, position, time and column, then the checkpoints.

        The verdict is graded: `anchors` confirm the chain up to an entry, `not_checked` and `forgeable` say what
        remains open. `is_valid` is null, and never true, when there was no entry to check.

        Takes a second for some hundred thousand entries. The answer of a long verification begins with white space,
        a space a second, so that neither a client nor a proxy gives up.
        """
        auditor = self._service.store.auditor()

        async def work() -> object:
            chain = call.principal.chain
            verdict = await self._verifier.verify(auditor, chain, call.query.from_seq)
            verdict = await self._rows.judged(chain, verdict)
            return records.verdict_record(verdict, self._clock.now_us())

        def encode(verdict: object) -> bytes:
            return success(verdict, request_id=call.request_id, timestamp=format_timestamp(self._clock.now_us()))

        return LateAnswer(work(), encode)

    async def _records(self, entries: Sequence[Entry]) -> list[object]:
        if not entries:
            return []
        return [raw_json(text) for text in await self._service.present_decisions(entries[0].chain, entries)]
