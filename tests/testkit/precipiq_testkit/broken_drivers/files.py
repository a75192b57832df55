"""A store that keeps files, and faults in keeping them: flushing or erasing less than it should."""

from __future__ import annotations

import os
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar

from anyio.lowlevel import checkpoint

from precipiq_contracts.chain import Chain, Entry, PreparedDraft
from precipiq_contracts.entry_store import PHYSICAL_ERASURE, Appended, EntryAuditor, EntryStore, Seal
from precipiq_testkit.broken_drivers.fault import Fault
from precipiq_testkit.memory import MemoryData, MemoryDriver, MemoryEntryStore


class FilingStore(MemoryEntryStore):
    """Keeps each chain in a file, which a new one replaces at each change. Nothing is wrong with it but its cost."""

    capabilities: ClassVar[frozenset[str]] = frozenset((PHYSICAL_ERASURE,))

    def __init__(self, folder: Path) -> None:
        super().__init__(MemoryData())
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.entries"):
            with suppress(EOFError):  # the power was cut before it was flushed
                entries = pickle.loads(path.read_bytes())
                self._data.entries[entries[0].chain] = entries

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        sealed = super()._store_sealed(chain, new, seal)
        if sealed:
            self._write(chain)
        return sealed

    def _drop_payload(self, chain: Chain, seq: int) -> None:
        super()._drop_payload(chain, seq)
        self._write(chain)

    def _write(self, chain: Chain) -> None:
        path = self._folder / f"{chain.org_id.encode().hex()}.{chain.environment}.entries"
        with path.with_suffix(".new").open("wb") as file:
            pickle.dump(self._data.entries[chain], file)
            file.flush()
            self._flush(file.fileno())
        self._replace(path.with_suffix(".new"), path)
        self._flush_folder()

    def _flush(self, file: int) -> None:
        os.fsync(file)

    def _replace(self, new: Path, path: Path) -> None:
        new.replace(path)

    def _flush_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


class FilingDriver(MemoryDriver):
    """Opens such stores, each of which reads the folder anew."""

    def __init__(self, folder: Path, store_type: type[FilingStore] = FilingStore) -> None:
        super().__init__()
        self._folder = folder
        self._filing_type = store_type
        self.name = store_type.__name__
        self.capabilities = store_type.capabilities

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        yield self._filing_type(self._folder)


class FilingFault(FilingStore, Fault):
    """A fault of a store that keeps files."""

    capabilities = FilingStore.capabilities


class NeverFlushes(FilingFault):
    """Leaves writing to the operating system."""

    caught_by = "test_an_append_survives_a_power_cut"
    symptom = "an acknowledged entry is gone after a power cut"

    def _flush(self, file: int) -> None:
        pass


class NeverFlushesTheFolder(FilingFault):
    """Flushes each file, and forgets that its name lies in the folder."""

    caught_by = "test_an_append_survives_a_power_cut"
    symptom = "an acknowledged entry is gone after a power cut"

    def _flush_folder(self) -> None:
        pass


class ErasesWithoutFlushing(FilingFault):
    """Flushes the redaction entry, but not that the payload is gone."""

    caught_by = "test_a_redaction_survives_a_power_cut"
    symptom = "a redaction is gone after a power cut"
    _erasing = False

    def _drop_payload(self, chain: Chain, seq: int) -> None:
        self._erasing = True
        super()._drop_payload(chain, seq)
        self._erasing = False

    def _flush_folder(self) -> None:
        if not self._erasing:
            super()._flush_folder()


class AnswersKnownKeysBeforeTheyAreFlushed(FilingFault):
    """Answers a known key from memory, while the append that brought it still has to be flushed."""

    caught_by = "test_what_an_append_answered_again_survives_a_power_cut"
    symptom = "an answered entry is gone"
    _flushing = False

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        appended = await super().append(chain, drafts, seal)
        if any(appended.created):
            await checkpoint()
            self._flushing = True
            self._write(chain)
            self._flushing = False
        return appended

    def _flush(self, file: int) -> None:
        if self._flushing:
            super()._flush(file)


class KeepsABackup(FilingFault):
    """Keeps what a file was before its last change, with the payload that was erased."""

    caught_by = "test_what_is_erased_is_in_no_file"
    symptom = "what was erased still lies in a file"

    def _replace(self, new: Path, path: Path) -> None:
        if path.exists():
            path.replace(path.with_suffix(".backup"))
        super()._replace(new, path)


class KeepsWhatWasReadMeanwhile(FilingFault):
    """Keeps the old file for a reader, and has nobody remove it afterwards."""

    caught_by = "test_what_is_erased_goes_once_its_readers_have_left"
    symptom = "the end of what was erased did not come"
    _is_read = False

    def auditor(self) -> EntryAuditor:
        self._is_read = True
        return super().auditor()

    def _replace(self, new: Path, path: Path) -> None:
        if self._is_read and not path.with_suffix(".read").exists():
            path.replace(path.with_suffix(".read"))
        super()._replace(new, path)
