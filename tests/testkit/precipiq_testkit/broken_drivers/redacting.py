"""Faults in redaction and in watching."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
from anyio.lowlevel import checkpoint

from precipiq_chain.matching import meets
from precipiq_chain.watchers import WakeUps
from precipiq_contracts.chain import Chain, Entry, PreparedDraft
from precipiq_contracts.entry_store import Appended, EntryQuery, Seal
from precipiq_testkit.broken_drivers.fault import Fault
from precipiq_testkit.memory import MemoryData


class KeepsThePayload(Fault):
    """Appends the redaction and forgets to drop the payload."""

    caught_by = "test_redact_drops_the_payload_and_keeps_the_proof"
    symptom = r"\[entries\[0\], erased, entries\[2\]\]"

    def _drop_payload(self, chain: Chain, seq: int) -> None:
        pass


class KeepsAnIndexOfThePayload(Fault):
    """Finds entries by metadata that was erased."""

    caught_by = "test_an_erased_payload_is_found_no_more"
    symptom = r"== \[\]"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._indexed: dict[str, Entry] = {}

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        return meets(query, self._indexed.setdefault(entry.hash, entry))


class RedactsInSecret(Fault):
    """Drops the payload without an entry that says so."""

    caught_by = "test_the_redaction_is_an_entry_that_names_its_target"
    symptom = r"stored\[2:\] == \[redaction\]"

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        self._drop_payload(chain, target.seq)
        return seal(self._head_now(chain), [draft])[0]


class RemembersWhoIsNotRedacted(Fault):
    """Answers which redaction erased an entry from a cache that no redaction empties."""

    caught_by = "test_redactions_are_known_by_their_targets"
    symptom = r"== \{target.seq: made\[target.seq\]\}"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._told: dict[tuple[Chain, tuple[int, ...]], Mapping[int, str]] = {}

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        found = await super().redaction_ids(chain, target_seqs)
        return self._told.setdefault((chain, tuple(target_seqs)), found)


class RedactsAnew(Fault):
    """Appends a redaction at each call."""

    caught_by = "test_a_second_redaction_gives_the_first"
    symptom = r"redact\(ALPHA, target\) == first"

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        unkeyed = replace(draft, draft=replace(draft.draft, idempotency_key=None))
        return await super().redact(chain, target, unkeyed, seal)


class LooksForRedactionsTooEarly(Fault):
    """Looks for an earlier redaction before it has the chain's lock."""

    caught_by = "test_redactions_at_the_same_time_make_one_entry"
    symptom = "== 1"

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        known = self._known(chain)
        await checkpoint()
        self._drop_payload(chain, target.seq)
        return self._append_now(chain, [draft], seal, known).entries[0]


class DropsBeforeTheEntry(Fault):
    """Drops the payload, then appends the redaction."""

    caught_by = "test_a_payload_is_kept_when_its_redaction_is_not_stored"
    symptom = "the payload is gone"

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        self._drop_payload(chain, target.seq)
        return await super().redact(chain, target, draft, seal)


class NeverCompletesARedaction(Fault):
    """Takes a stored redaction entry for proof that the payload is gone."""

    caught_by = "test_a_redaction_that_was_cut_short_is_completed"
    symptom = r"replace\(target, payload=None\), stored"

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        known = self._known(chain).get(draft.idempotency_key or "")
        return known if known is not None else await super().redact(chain, target, draft, seal)


class RestoresOnReplay(Fault):
    """Writes the payload of a draft whose key it knows."""

    caught_by = "test_a_replay_after_erasure_does_not_bring_the_payload_back"
    symptom = "payload"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        appended = await super().append(chain, drafts, seal)
        for draft, entry in zip(drafts, appended.entries, strict=True):
            self._data.entries[chain][entry.seq - 1] = replace(entry, payload=draft.payload)
        return appended


class WakesOneWatcher(Fault):
    """Wakes one of those who wait."""

    caught_by = "test_an_append_wakes_one_who_waits"
    symptom = "a wake-up did not come"

    def _wake(self, chain: Chain) -> None:
        for watcher in list(self._data.watchers._by_chain.get(chain, ()))[:1]:
            watcher.wake()


class _ForgetfulWakeUps(WakeUps):
    async def __anext__(self) -> None:
        self._event = asyncio.Event()
        await super().__anext__()


class WakesOnlyThoseWhoWait(Fault):
    """Forgets a wake-up that comes while nobody waits."""

    caught_by = "test_an_append_between_check_and_wait_is_not_missed"
    symptom = "a wake-up did not come"

    @asynccontextmanager
    async def watch(self, chain: Chain) -> AsyncIterator[AsyncIterator[None]]:
        wake_ups = _ForgetfulWakeUps()
        self._data.watchers._by_chain.setdefault(chain, set()).add(wake_ups)
        yield wake_ups


class WakesBeforeItStores(Fault):
    """Sends the wake-up before the entry can be read."""

    caught_by = "test_a_follower_sees_everything_while_others_write"
    symptom = "a wake-up did not come"

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        self._wake(chain)
        for _ in range(5):
            await checkpoint()
        return self._append_now(chain, drafts, seal)


class RedactsInSilence(Fault):
    """Wakes nobody when an entry was redacted."""

    caught_by = "test_a_redaction_wakes_too"
    symptom = "a wake-up did not come"

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        redaction = self._append_now(chain, [draft], seal).entries[0]
        self._drop_payload(chain, target.seq)
        return redaction


class LeavesTasksBehind(Fault):
    """Starts a task for each watcher and ends none."""

    caught_by = "test_a_watcher_who_leaves_leaves_nothing_behind"
    symptom = "watchers that left have left tasks behind"

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def watch(self, chain: Chain) -> AsyncIterator[AsyncIterator[None]]:
        self._tasks.append(asyncio.create_task(anyio.sleep_forever()))
        async with super().watch(chain) as wake_ups:
            yield wake_ups
