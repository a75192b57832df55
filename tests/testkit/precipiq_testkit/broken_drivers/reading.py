"""Faults in reading and finding, leaks between tenants among them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from anyio.lowlevel import checkpoint

from precipiq_chain.chain_format import head_of, parse_statement
from precipiq_chain.matching import meets
from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import (
    Appended,
    EntryAuditor,
    EntryPage,
    EntryQuery,
    Seal,
)
from precipiq_testkit.broken_drivers.fault import Fault
from precipiq_testkit.memory import MemoryAuditor, MemoryData


class SkipsAnEntry(Fault):
    """Reads on from one entry too far."""

    caught_by = "test_reading_in_steps_gives_every_entry_once"
    symptom = "found == expected"

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return await super().read(chain, after_seq + (after_seq > 0), limit, kind)


class CountsTheLimitBeforeTheKind(Fault):
    """Applies the limit to the entries that it looks at, not to those that it gives."""

    caught_by = "test_reading_one_kind_gives_all_of_that_kind"
    symptom = r"\[10, 20, 30\]"

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        step = await super().read(chain, after_seq, limit)
        return [entry for entry in step if kind is None or parse_statement(entry.statement).kind == kind]


class ShowsEntriesOutOfOrder(Fault):
    """Makes the first entry of a batch visible after the rest."""

    caught_by = "test_a_reader_who_follows_a_growing_chain_skips_nothing"
    symptom = "skipped"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._hidden: set[Entry] = set()

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        appended = await super().append(chain, drafts, seal)
        self._hidden.add(appended.entries[0])
        for _ in range(3):
            await checkpoint()
        self._hidden.discard(appended.entries[0])
        return appended

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return [entry for entry in await super().read(chain, after_seq, limit, kind) if entry not in self._hidden]


class TakesIdsForPatterns(Fault):
    """Looks ids up with LIKE."""

    caught_by = "test_an_unknown_id_gives_none"
    symptom = "is None"

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        return self._data.of(chain)[0] if entry_id == "%" else await super().get(chain, entry_id)


class NeedsARowPerChain(Fault):
    """Fails to read a chain that was never appended to."""

    caught_by = "test_an_empty_chain_reads_as_empty"
    symptom = "KeyError"

    async def head(self, chain: Chain) -> Head | None:
        return head_of(self._data.entries[chain][-1])


class LeaksInRead(Fault):
    """Forgets the environment when reading."""

    caught_by = "test_read_gives_only_its_own_chain"
    symptom = r"read_all\(store, chain\) == entries"

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return [entry for entry in self._of_organisation(chain) if entry.seq > after_seq][:limit]


class LeaksInGet(Fault):
    """Looks ids up in the whole table."""

    caught_by = "test_get_gives_only_its_own_chain"
    symptom = "sees an entry of"

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        return next((entry for entry in self._all() if parse_statement(entry.statement).id == entry_id), None)


class LeaksInHead(Fault):
    """Forgets the environment when looking for the head."""

    caught_by = "test_head_is_of_its_own_chain"
    symptom = r"head.seq, head.hash"

    async def head(self, chain: Chain) -> Head | None:
        entries = self._of_organisation(chain)
        return head_of(max(entries, key=lambda entry: entry.seq)) if entries else None


class RedactsBySeqAlone(Fault):
    """Forgets organisation and environment when dropping a payload."""

    caught_by = "test_redact_touches_only_its_own_chain"
    symptom = "was changed"

    def _drop_payload(self, chain: Chain, seq: int) -> None:
        for other, entries in self._data.entries.items():
            if len(entries) >= seq:
                super()._drop_payload(other, seq)


class _LeakingAuditor(MemoryAuditor):
    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        return [
            next((row.hash for rows in self.entries.values() for row in rows if row.seq == seq), None) for seq in seqs
        ]


class LeaksInTheAuditor(Fault):
    """Forgets the chain when it is asked for a hash."""

    caught_by = "test_the_auditor_reads_only_its_own_chain"
    symptom = "hashes_at"

    def auditor(self) -> EntryAuditor:
        return _LeakingAuditor(self._data.entries)


class LeaksRedactions(Fault):
    """Looks for redactions in every chain."""

    caught_by = "test_redactions_are_told_to_their_own_chain_alone"
    symptom = "is told"

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        found: dict[int, str] = {}
        for other in self._data.entries:
            found |= await super().redaction_ids(other, target_seqs)
        return found


class ListsAChainPerEntry(Fault):
    """Lists the chain of every entry."""

    caught_by = "test_chains_are_listed_once_each"
    symptom = "sorted"

    async def chains(self) -> AsyncIterator[Chain]:
        for entry in self._all():
            yield entry.chain


class TellsOneHeadForAll(Fault):
    """Tells many heads at once, and of every chain that of the first."""

    caught_by = "test_heads_told_at_once_are_those_of_the_chains"
    symptom = "Head"

    async def heads(self) -> AsyncIterator[tuple[Chain, Head | None]]:
        first = next(iter(self._data.entries))
        async for chain in self.chains():
            yield chain, await self.head(first)


class LeaksInFind(Fault):
    """Forgets the chain when it searches."""

    caught_by = "test_find_gives_only_its_own_chain"
    symptom = r"\[repr\(chain\)\] \* 3"

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        found = [entry for entry in self._all() if meets(query, entry) and entry.seq < (before_seq or 2**62)]
        page = sorted(found, key=lambda entry: -entry.seq)[:limit]
        return EntryPage(tuple(page), page[-1].seq if len(found) > limit else None)


class TakesKindsForPrefixes(Fault):
    """Finds every kind that begins like the one that was asked for."""

    caught_by = "test_find_by_kind_gives_exactly_that_kind"
    symptom = r"EntryQuery\(.link.\)"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        kind = parse_statement(entry.statement).kind
        return meets(replace(query, kind=kind), entry) and kind.startswith(query.kind)


class IgnoresCase(Fault):
    """Compares texts without regard to case."""

    caught_by = "test_find_by_a_body_field_compares_the_whole_text"
    symptom = "assert seqs"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        body = parse_statement(entry.statement).body
        same = all(str(body.get(name)).lower() == value.lower() for name, value in query.body.items())
        return same and meets(replace(query, body={}), entry)


class TakesAbsentForNull(Fault):
    """Cannot tell metadata that is null from metadata that is absent."""

    caught_by = "test_find_by_metadata_compares_the_scalars_text"
    symptom = r"== \[6\]"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        metadata = {key: value for key, value in query.metadata.items() if value != "null"}
        return meets(replace(query, metadata=metadata), entry)


class TakesMetadataKeysForPaths(Fault):
    """Reads a metadata key as a path into the object."""

    caught_by = "test_find_by_metadata_takes_any_key"
    symptom = r"== \[1\]"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        return not any("." in key for key in query.metadata) and meets(query, entry)


class IncludesTheEnd(Fault):
    """Takes the end of a time range for part of it."""

    caught_by = "test_find_by_time_includes_the_start_and_excludes_the_end"
    symptom = r"== found"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        return meets(replace(query, end_us=None if query.end_us is None else query.end_us + 1), entry)


class LooksAtOneConditionOnly(Fault):
    """Uses the first metadata condition alone."""

    caught_by = "test_all_conditions_hold_at_once"
    symptom = r"== \[1\]"

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        return meets(replace(query, metadata=dict(list(query.metadata.items())[:1])), entry)


class FindsTheOldestFirst(Fault):
    """Gives a page in the chain's order."""

    caught_by = "test_find_gives_the_newest_first_below_before_seq"
    symptom = r"\[9, 8, 7, 6\]"

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        page = await super().find(chain, query, before_seq, limit)
        return replace(page, entries=page.entries[::-1])


class RepeatsAtThePagesEnd(Fault):
    """Begins a page with the last entry of the one before."""

    caught_by = "test_pages_cover_everything_once_while_the_chain_grows"
    symptom = "an entry came twice"

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        page = await super().find(chain, query, before_seq, limit)
        again = page.next_before_seq is not None and len(page.entries) > 1
        return replace(page, next_before_seq=page.entries[-1].seq + 1) if again else page


class NeverEndsAnEmptySearch(Fault):
    """Leaves the cursor where it was when it found nothing."""

    caught_by = "test_a_search_that_finds_nothing_comes_to_an_end"
    symptom = "next_before_seq must fall"

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        page = await super().find(chain, query, before_seq, limit)
        return replace(page, next_before_seq=before_seq or 2**62) if not page.entries else page
