"""Finding: each condition exactly, newest first, and pages that cover everything once."""

from __future__ import annotations

import anyio
import pytest

from precipiq_chain.chain_format import head_of
from precipiq_contracts.entry_store import EntryQuery, EntryStore
from precipiq_testkit.entry_store_suite.support import (
    ALPHA,
    ALPHA_TEST,
    BETA,
    StoreTests,
    agents,
    find_all,
    seqs,
)
from precipiq_testkit.sealing import Writer

METADATA_SCALARS: dict[str, tuple[object, str]] = {
    "text": ("paid", "paid"),
    "empty text": ("", ""),
    "unicode": ("Größe 你好", "Größe 你好"),
    "quotes": ('o\'clock "x" \\ %', 'o\'clock "x" \\ %'),
    "true": (True, "true"),
    "false": (False, "false"),
    "null": (None, "null"),
    "integer": (42, "42"),
    "integer beyond 64 bits": (12345678901234567890123, "12345678901234567890123"),
    "fraction": (0.1, "0.1"),
    "exponent": (1e21, "1e+21"),
    "small": (1e-7, "1e-7"),
}
METADATA_KEYS = ("order_id", "a.b", "$", "$.x", "[0]", "it's", 'a"b', "a\\b", "ключ", "with space", "%", "")


class FindTests(StoreTests):
    async def test_find_by_kind_gives_exactly_that_kind(self, store: EntryStore, writer: Writer) -> None:
        """``find`` MUST give the entries of the kind that was asked for, and no others.

        On failure: is the kind compared as a whole?
        """
        for kind in ("decision", "link", "decision", "linked"):
            await writer.append(ALPHA, writer.draft(kind=kind))
        assert seqs(await find_all(store, ALPHA, EntryQuery("decision"))) == [3, 1]
        assert seqs(await find_all(store, ALPHA, EntryQuery("link"))) == [2]
        assert await find_all(store, ALPHA, EntryQuery("unknown")) == []

    @pytest.mark.parametrize("name", ["agent_id", "action_type", "external_id", "other_field"])
    async def test_find_by_a_body_field_compares_the_whole_text(
        self, store: EntryStore, writer: Writer, name: str
    ) -> None:
        """Each condition on the body MUST hold exactly: case, spaces, quotes and wildcards count.

        On failure: a column with a collation, a LIKE, or a value put into the query's text?
        """
        texts = ["tool:x", "Tool:x", "tool:x ", "tool", "tool%", "t__l:x", "' or 1=1 --", "Größe", "42"]
        await writer.append(ALPHA, *(writer.draft(body={name: text}) for text in texts))
        for seq, text in enumerate(texts, 1):
            assert seqs(await find_all(store, ALPHA, EntryQuery("decision", body={name: text}))) == [seq], text

    @pytest.mark.parametrize(("value", "text"), METADATA_SCALARS.values(), ids=METADATA_SCALARS.keys())
    async def test_find_by_metadata_compares_the_scalars_text(
        self, store: EntryStore, writer: Writer, value: object, text: str
    ) -> None:
        """Metadata MUST match by the scalar's text: a string's own, ``true``, ``null``, a number as it is stored.

        On failure: numbers that went through a float, JSON null taken for an absent key, booleans shown as 1 and 0?
        """
        others: list[dict[str, object]] = [{}, {"k": "other"}, {"other": value}, {"k": [value]}, {"k": {"k": value}}]
        await writer.append(ALPHA, *(writer.draft(metadata=item) for item in [*others, {"k": value}]))
        await writer.append(ALPHA, writer.draft(erasable=False))
        assert seqs(await find_all(store, ALPHA, EntryQuery("decision", metadata={"k": text}))) == [6]

    @pytest.mark.parametrize("key", METADATA_KEYS)
    async def test_find_by_metadata_takes_any_key(self, store: EntryStore, writer: Writer, key: str) -> None:
        """A metadata key is any text and MUST NOT be read as a path, a pattern or SQL.

        On failure: a JSON path that is built from the key?
        """
        await writer.append(ALPHA, writer.draft(metadata={key: "1"}), writer.draft(metadata={f"{key}x": "1"}))
        assert seqs(await find_all(store, ALPHA, EntryQuery("decision", metadata={key: "1"}))) == [1]
        assert await find_all(store, ALPHA, EntryQuery("decision", metadata={key: "2"})) == []

    async def test_find_by_time_includes_the_start_and_excludes_the_end(
        self, store: EntryStore, writer: Writer
    ) -> None:
        """``start_us`` MUST be inclusive and ``end_us`` exclusive, to the microsecond.

        On failure: times that were rounded to milliseconds, or compared as texts of different lengths?
        """
        times = []
        for _ in range(4):
            writer.clock.advance(us=1)
            times.append(head_of((await writer.fill(ALPHA, 1))[0]).timestamp_us)
        assert times == list(range(times[0], times[0] + 4))
        expected = {(None, None): [4, 3, 2, 1], (1, None): [4, 3, 2], (None, 2): [2, 1], (1, 2): [2], (2, 2): []}
        for (start, end), found in expected.items():
            query = EntryQuery(
                "decision",
                start_us=None if start is None else times[start],
                end_us=None if end is None else times[end],
            )
            assert seqs(await find_all(store, ALPHA, query)) == found, (start, end)

    async def test_all_conditions_hold_at_once(self, store: EntryStore, writer: Writer) -> None:
        """An entry MUST meet every condition to be found.

        On failure: conditions joined by ``or``, or all but the first left out?
        """
        a1, b2 = {"agent_id": "a", "action_type": "t"}, {"agent_id": "a", "action_type": "u"}
        await writer.append(
            ALPHA,
            writer.draft(body=a1, metadata={"x": "1", "y": "1"}),
            writer.draft(body=b2, metadata={"x": "1", "y": "1"}),
            writer.draft(body=a1, metadata={"x": "1", "y": "2"}),
            writer.draft(body=a1, metadata={"x": "2", "y": "1"}),
            writer.draft(body=a1, metadata={"x": "1", "y": "1"}, kind="link"),
        )
        query = EntryQuery("decision", body=a1, metadata={"x": "1", "y": "1"})
        assert seqs(await find_all(store, ALPHA, query)) == [1]

    async def test_find_gives_the_newest_first_below_before_seq(self, store: EntryStore, writer: Writer) -> None:
        """Entries MUST come newest first, with seq < ``before_seq``, at most ``limit`` in a page.

        On failure: the order of the index, or ``<=`` for ``<``?
        """
        await writer.fill(ALPHA, 9)
        assert seqs((await store.find(ALPHA, EntryQuery("decision"), None, 4)).entries) == [9, 8, 7, 6]
        assert seqs((await store.find(ALPHA, EntryQuery("decision"), 6, 4)).entries) == [5, 4, 3, 2]
        last = await store.find(ALPHA, EntryQuery("decision"), 2, 4)
        assert seqs(last.entries) == [1]
        assert (await store.find(ALPHA, EntryQuery("decision"), 1, 4)).entries == ()

    async def test_pages_cover_everything_once_while_the_chain_grows(self, store: EntryStore, writer: Writer) -> None:
        """Following ``next_before_seq`` MUST give each match once, though entries are appended meanwhile.

        On failure: pages by offset, or a cursor that repeats or skips its own entry?
        """
        names = ["wanted", "other", "other"] * 60
        await writer.append(ALPHA, *(writer.draft(name) for name in names))

        async def grow() -> None:
            for _ in range(20):
                await writer.append(ALPHA, writer.draft("wanted"))

        for body in ({"agent_id": "wanted"}, {}):
            wanted = {seq for seq, name in enumerate(names, 1) if name == "wanted" or not body}
            with self.patience("the last page"):
                async with anyio.create_task_group() as group:
                    group.start_soon(grow)
                    found = seqs(await find_all(store, ALPHA, EntryQuery("decision", body=body)))
            assert found == sorted(set(found), reverse=True), "an entry came twice, or not newest first"
            assert wanted <= set(found), "pages passed an entry by"

    async def test_a_search_that_finds_nothing_comes_to_an_end(self, store: EntryStore, writer: Writer) -> None:
        """Pages MAY be short or empty, but ``next_before_seq`` MUST fall and end in None.

        On failure: does the cursor move when a bounded scan found nothing?
        """
        await writer.fill(ALPHA, 200)
        assert await find_all(store, ALPHA, EntryQuery("decision", metadata={"k": "v"}), limit=1) == []

    async def test_find_gives_only_its_own_chain(self, store: EntryStore, writer: Writer) -> None:
        """``find`` MUST NOT give an entry of another organisation or environment.

        On failure: are both organisation and environment part of every condition?
        """
        for chain in (ALPHA, ALPHA_TEST, BETA):
            await writer.append(chain, *(writer.draft(repr(chain), metadata={"k": "v"}) for _ in range(3)))
        for chain in (ALPHA, ALPHA_TEST, BETA):
            for query in (EntryQuery("decision"), EntryQuery("decision", metadata={"k": "v"})):
                assert agents(await find_all(store, chain, query)) == [repr(chain)] * 3
