"""Faults with long keys, ids and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from precipiq_chain.chain_format import parse_statement
from precipiq_chain.matching import meets
from precipiq_contracts.chain import Chain, Entry, PreparedDraft
from precipiq_contracts.entry_store import Appended, EntryQuery, Seal
from precipiq_contracts.errors import Unavailable
from precipiq_testkit.broken_drivers.fault import Fault


class CutsLongKeys(Fault):
    """Has a column of 255 characters for keys, which cuts what is longer."""

    caught_by = "test_the_longest_keys_are_kept_and_told_apart"
    symptom = "idempotency_key"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        return await super().append(chain, [_cut(draft) for draft in drafts], seal)


def _cut(draft: PreparedDraft) -> PreparedDraft:
    key = draft.idempotency_key
    return replace(draft, draft=replace(draft.draft, idempotency_key=None if key is None else key[:255]))


class RefusesLongKeys(Fault):
    """Counts 255 characters where the contract counts bytes."""

    caught_by = "test_the_longest_keys_are_kept_and_told_apart"
    symptom = "the key is too long"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        if any(len(draft.idempotency_key or "") > 255 for draft in drafts):
            raise Unavailable("the key is too long")
        return await super().append(chain, drafts, seal)


class NamesFilesAfterOrganisations(Fault):
    """Makes file names of ids, which are too long for its file system once they are quoted."""

    caught_by = "test_the_longest_organisation_ids_are_kept_and_told_apart"
    symptom = "File name too long"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        if len(quote(chain.org_id)) > 143:
            raise Unavailable("File name too long")
        return await super().append(chain, drafts, seal)


class ComparesTheStartOfKinds(Fault):
    """Has an index of the first 32 characters of a kind, and trusts it."""

    caught_by = "test_the_longest_kinds_and_actors_are_kept_and_told_apart"
    symptom = r"== \[entry\]"

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        step = await super().read(chain, after_seq, limit)
        return [entry for entry in step if kind is None or parse_statement(entry.statement).kind[:32] == kind[:32]]


class ComparesTheStartOfNames(Fault):
    """Has an index of the first 200 characters of a text, and trusts it."""

    caught_by = "test_the_longest_names_are_found_and_told_apart"
    symptom = r"== \[seq\]"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        body = parse_statement(entry.statement).body
        alike = all(str(body.get(name))[:200] == value[:200] for name, value in query.body.items())
        return alike and meets(replace(query, body={}), entry)
