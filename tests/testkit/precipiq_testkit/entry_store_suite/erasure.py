"""Physical erasure: what was erased is in no file. Only for drivers that declare it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from precipiq_chain.chain_format import split_payload
from precipiq_contracts.chain import Entry
from precipiq_contracts.entry_store import PHYSICAL_ERASURE, EntryStore, EntryStoreDriver
from precipiq_testkit.entry_store_suite.support import ALPHA, StoreTests, require, require_storage
from precipiq_testkit.sealing import Writer

REPETITIONS = (1, 20, 300, 90, 2000, 3, 150)
"""From a few bytes to many pages of whatever the driver stores."""


class ErasureTests(StoreTests):
    async def test_what_is_erased_is_in_no_file(
        self, driver: EntryStoreDriver, storage: Path | None, store: EntryStore, writer: Writer
    ) -> None:
        """With ``physical_erasure``, once ``redact`` has returned no file MUST hold the payload or its salt.

        On failure: a journal that is emptied later, pages that are freed and not overwritten, an old copy of a file.
        """
        require(driver, PHYSICAL_ERASURE)
        folder = require_storage(storage)
        entries = await _write(writer)
        _require_plain(folder, entries)
        for target in (*entries[::2], *entries[1::2]):
            await writer.redact(ALPHA, target)
            assert _find_traces(folder, [target]) == [], "what was erased still lies in a file"
        assert _find_traces(folder, entries) == [], "what was erased is back in a file"

    async def test_what_is_erased_goes_once_its_readers_have_left(
        self, driver: EntryStoreDriver, storage: Path | None, store: EntryStore, writer: Writer
    ) -> None:
        """With ``physical_erasure``, what a reader was reading meanwhile MUST be gone soon after it has ended.

        On failure: is a journal that a reader kept from being emptied emptied later, though nothing more is written?
        """
        require(driver, PHYSICAL_ERASURE)
        folder = require_storage(storage)
        entries = await _write(writer)
        _require_plain(folder, entries)
        reading = store.auditor().batches(ALPHA, 0, None, 1)
        next(reading)
        erased = entries[:3]
        for target in erased:
            await writer.redact(ALPHA, target)
        assert sum(len(batch.seqs) for batch in reading) > 0
        with self.patience("the end of what was erased"):
            while _find_traces(folder, erased):
                await anyio.sleep(0.05)


async def _write(writer: Writer) -> list[Entry]:
    entries: list[Entry] = []
    for seq, count in enumerate(REPETITIONS * 3, 1):
        draft = writer.draft(payload={"inputs": {"text": f"<{seq:02} erase me>" * count}})
        entries.extend((await writer.append(ALPHA, draft)).entries)
    return entries


def _require_plain(folder: Path, entries: list[Entry]) -> None:
    if _find_traces(folder, entries) != [entry.seq for entry in entries]:
        pytest.skip("the driver does not store payloads as they are: searching its files shows nothing")


def _find_traces(folder: Path, entries: list[Entry]) -> list[int]:
    """The seqs of those of whose payload or salt some file has a trace."""
    text = b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    traces = {entry.seq: (b"<%02d erase me>" % entry.seq, *_salts(entry)) for entry in entries}
    return [seq for seq, parts in traces.items() if any(part in text for part in parts)]


def _salts(entry: Entry) -> tuple[bytes, bytes]:
    assert entry.payload is not None
    salt = split_payload(entry.payload)[1]
    return salt.encode(), bytes.fromhex(salt)
