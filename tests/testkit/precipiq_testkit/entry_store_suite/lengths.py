"""Lengths: keys, ids and names up to the contract's bounds, in bytes, are kept whole and told apart."""

from __future__ import annotations

import pytest

from precipiq_chain.chain_format import SALT_BYTES, prepare
from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.entry_store import (
    ACTOR_BYTES_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX,
    KIND_BYTES_MAX,
    NAME_BYTES_MAX,
    ORG_ID_BYTES_MAX,
    EntryQuery,
    EntryStore,
)
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    StoreTests,
    assert_intact,
    find_all,
    read_all,
    seqs,
)
from precipiq_testkit.sealing import Writer, entry_id

EMOJI = "\U0001f600"
OTHER = "\U0001f601"


def longest(start: str, bytes_max: int, end: str) -> str:
    """A text of exactly so many bytes, of emoji between a start and an end."""
    room = bytes_max - len((start + end).encode())
    return start + "x" * (room % 4) + EMOJI * (room // 4) + end


KEYS = {
    "an external_id": ("external_id:" + EMOJI * 254 + EMOJI, "external_id:" + EMOJI * 254 + OTHER),
    "a request": tuple(longest("request:999:", IDEMPOTENCY_KEY_BYTES_MAX, end) for end in ("a", "b")),
    "emoji": tuple(longest("", IDEMPOTENCY_KEY_BYTES_MAX, end) for end in (EMOJI, OTHER)),
    "ascii": ("k" * (IDEMPOTENCY_KEY_BYTES_MAX - 1) + "a", "k" * (IDEMPOTENCY_KEY_BYTES_MAX - 1) + "b"),
}


class LengthTests(StoreTests):
    @pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
    async def test_the_longest_keys_are_kept_and_told_apart(
        self, store: EntryStore, writer: Writer, keys: tuple[str, str]
    ) -> None:
        """A driver MUST take idempotency keys of up to 2,048 bytes, and tell apart two that differ at their end.

        On failure: a column or index that is too short for it, that counts characters, or that compares a prefix?
        """
        made = [(await writer.append(ALPHA, writer.draft(key=key))).entries[0] for key in keys]
        assert [entry.idempotency_key for entry in made] == list(keys)
        assert await read_all(store, ALPHA) == made
        again = await writer.append(ALPHA, *(writer.draft(key=key) for key in reversed(keys)))
        assert (again.entries, again.created) == ((made[1], made[0]), (False, False))

    async def test_the_longest_organisation_ids_are_kept_and_told_apart(
        self, store: EntryStore, writer: Writer
    ) -> None:
        """A driver MUST take ids of organisations of up to 64 bytes, whatever the characters.

        On failure: a file name, prefix or column that is made of it and becomes too long, or is cut?
        """
        chains = [Chain(longest("", ORG_ID_BYTES_MAX, end), "live") for end in (EMOJI, OTHER)]
        for count, chain in enumerate(chains, 1):
            await writer.fill(chain, count)
        for count, chain in enumerate(chains, 1):
            entries = await read_all(store, chain)
            assert_intact(chain, entries)
            assert len(entries) == count == store.auditor().last_seq(chain), "chains with long ids are not kept apart"
            assert await store.get(chain, entry_id(entries[0])) == entries[0]
        assert {chain async for chain in store.chains()} == set(chains)

    async def test_the_longest_kinds_and_actors_are_kept_and_told_apart(
        self, store: EntryStore, writer: Writer
    ) -> None:
        """A driver MUST take kinds of up to 64 bytes and actors of up to 255.

        On failure: a column that is too short, or an index that compares a prefix?
        """
        kinds = ["k" * (KIND_BYTES_MAX - 1) + end for end in "ab"]
        actor = longest("", ACTOR_BYTES_MAX, EMOJI)
        salt = bytes(SALT_BYTES)
        made = (await writer.append(ALPHA, *(prepare(Draft(kind, actor, {}, {}), salt) for kind in kinds))).entries
        assert await read_all(store, ALPHA) == list(made)
        for entry, kind in zip(made, kinds, strict=True):
            assert list(await store.read(ALPHA, 0, 10, kind)) == [entry]
            assert await find_all(store, ALPHA, EntryQuery(kind)) == [entry]

    @pytest.mark.parametrize("name", ["agent_id", "action_type", "external_id"])
    async def test_the_longest_names_are_found_and_told_apart(
        self, store: EntryStore, writer: Writer, name: str
    ) -> None:
        """``find`` MUST compare texts of the body of up to 1,020 bytes (255 emoji) to their end.

        On failure: an index of the first so many characters whose hits are not compared once more?
        """
        texts = [longest("", NAME_BYTES_MAX, end) for end in (EMOJI, OTHER)]
        assert len(texts[0]) == 255
        await writer.append(ALPHA, *(writer.draft(body={name: text}) for text in texts))
        for seq, text in enumerate(texts, 1):
            assert seqs(await find_all(store, ALPHA, EntryQuery("decision", body={name: text}))) == [seq]
        cut = EntryQuery("decision", body={name: texts[0][:-1]})
        assert await find_all(store, ALPHA, cut) == []
