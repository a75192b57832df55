"""The manifest of the checkpoint folder: signed, one for the installation, which checkpoint of each chain is newest.

A file that was removed, or lost lines, contradicts it. It is replaced atomically, under a lock, by every process that
writes checkpoints. What it once says was lost stays on record.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import orjson
import structlog

from precipiq_chain.canonical import Json, canonical
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.clock import Clock
from precipiq_core.key_files import make_folder, sync
from precipiq_ledger.checkpoint_files import CheckpointFiles, Place, lock, locked, write_all
from precipiq_ledger.checkpoints import CheckpointSigner

log = structlog.get_logger("precipiq.ledger")

FILE_NAME = "manifest.json"
_LOCK_NAME = "manifest.lock"
_SERVING_NAME = "serving.lock"
_SERVING_WAIT_S = 0.02  # other commands that ask hold it for a moment
_PURPOSE = "ledger checkpoint manifest, version 1"
_DIGEST_CHARACTERS = 32
_NUMBERS = ("number", "began_us", "started_us", "written_us")
_HEADER_BYTES_MAX = 4096
_BYTES_MAX = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """The newest checkpoint of a chain: ``seq``, ``hash``, ``signed_us`` of its signing, and its line in the file.

    ``end``: the offset after the line; ``digest``: of the line. ``lost_seq``: of a checkpoint that was on record and is
    no longer in the file; 0 for none.
    """

    seq: int
    hash: str
    signed_us: int
    end: int
    digest: str
    lost_seq: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Times are microseconds since the epoch. ``number``: of the write, from 1; ``began_us``: of the first one.

    ``started_us``: when a server last began to serve from this folder; ``written_us``: of this write.
    """

    number: int
    began_us: int
    started_us: int
    written_us: int
    records: Mapping[Chain, Record]


class ManifestRefused(ValueError):
    """The file is no manifest that this deployment's key signed. ``is_foreign``: another key signed it."""

    def __init__(self, *, is_foreign: bool) -> None:
        self.is_foreign = is_foreign
        super().__init__("signed by another key" if is_foreign else "its signature is wrong, or it is damaged")


class CheckpointManifest:
    """The manifest in a folder of checkpoint files. Its methods block, and raise ``OSError``.

    This process remembers what it last read or wrote: a file that is removed or set back meanwhile is told in the log,
    and what it said is written anew.
    """

    def __init__(self, files: CheckpointFiles, signer: CheckpointSigner, clock: Clock) -> None:
        self._files = files
        self._signer = signer
        self._clock = clock
        self._path = files.folder / FILE_NAME
        self._guard = threading.Lock()
        self._read: tuple[tuple[int, int, int], Manifest] | None = None
        self._known: Manifest | None = None

    def read(self) -> Manifest | None:
        """As it is in the folder; None when there is none. Raises ``ManifestRefused``."""
        try:
            version = _version(self._path)
        except FileNotFoundError:
            return None
        with self._guard:
            if self._read is None or self._read[0] != version:
                self._read = (version, self._parse(self._content()))
            return self._read[1]

    def record_of(self, chain: Chain) -> Record | None:
        """The newest checkpoint of that chain that this process put on record, or found there."""
        return None if self._known is None else self._known.records.get(chain)

    def chains(self) -> set[Chain]:
        """Those that have a record; none where the manifest is refused."""
        try:
            found = self.read()
        except ManifestRefused:
            return set()
        return set() if found is None else set(found.records)

    def start(self) -> list[Chain]:
        """Note that a server begins; gives the chains whose files lost a checkpoint. Raises ``ManifestRefused``."""
        return self._write({}, is_start=True)

    def note(self, places: Mapping[Chain, Place]) -> list[Chain]:
        """Put these newest checkpoints on record; gives the chains that lost one that was.

        Raises ``ManifestRefused``: what another key signed is not replaced.
        """
        return self._write(places, is_start=False)

    def set_aside(self, chains: AbstractSet[Chain], folder: Path) -> None:
        """Forget these chains; the manifest as it was is kept in that folder. Raises ``ManifestRefused``."""
        with locked(self._files.folder / _LOCK_NAME):
            found = self.read()
            if found is None:
                return
            os.link(self._path, folder / FILE_NAME)  # the next write puts another file in its place
            records = {chain: record for chain, record in found.records.items() if chain not in chains}
            self._replace(replace(found, number=found.number + 1, written_us=self._clock.now_us(), records=records))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Tell other processes, as long as the context is entered, that a server writes checkpoints here."""
        with ExitStack() as stack:
            try:
                make_folder(self._files.folder)
                lock(stack.enter_context(_opened(self._files.folder / _SERVING_NAME)), fcntl.LOCK_SH)
            except OSError as error:
                log.warning("commands cannot see that a server writes checkpoints here", error=str(error))
            yield

    def is_serving(self) -> bool:
        """Whether a server on this machine writes checkpoints into this folder now."""
        try:
            with _opened(self._files.folder / _SERVING_NAME, os.O_RDONLY) as descriptor:
                lock(descriptor, fcntl.LOCK_EX, wait_s=_SERVING_WAIT_S)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def is_held(self, chain: Chain, record: Record) -> bool:
        """Whether the chain's file still has the checkpoint that is on record."""
        line = self._files.line_at(chain, record.end)
        return line is not None and _digest(line) == record.digest

    def _write(self, places: Mapping[Chain, Place], *, is_start: bool) -> list[Chain]:
        make_folder(self._files.folder)
        with locked(self._files.folder / _LOCK_NAME):
            now_us = self._clock.now_us()
            before = self._before(now_us, places)
            records, lost = dict(before.records), []
            for chain in before.records if is_start else places:
                old = records.get(chain)
                records[chain] = new = self._follow(chain, old, places.get(chain))
                if new.lost_seq and not (old is not None and old.lost_seq):
                    lost.append(chain)
            started_us = now_us if is_start else before.started_us
            self._replace(Manifest(before.number + 1, before.began_us, started_us, now_us, records))
        return lost

    def _before(self, now_us: int, places: Mapping[Chain, Place]) -> Manifest:
        """What the next manifest follows on."""
        found, known = self.read(), self._known
        if known is None:
            return found or Manifest(0, now_us, 0, now_us, self._records_of_files(places))
        if found is not None and found.number >= known.number:
            return found
        log.critical("the manifest of the checkpoints was removed or set back; it is written anew", file=FILE_NAME)
        return known if found is None else replace(known, records={**found.records, **known.records})

    def _records_of_files(self, written: Mapping[Chain, Place]) -> dict[Chain, Record]:
        """For the first manifest of a folder: it takes the files as they are."""
        places = {chain: self._files.newest(chain, self._signer) for chain in self._files.chains() - set(written)}
        records = {chain: _record(place) for chain, place in places.items() if place is not None}
        if records:
            log.warning("there was no manifest of the checkpoints; it is made from the files", chains=len(records))
        return records

    def _follow(self, chain: Chain, old: Record | None, place: Place | None) -> Record:
        """The record after that checkpoint was written. Another process may have put a newer one on record."""
        if old is None:
            assert place is not None, "only what is on record is looked at without a new checkpoint"
            return _record(place)
        lost_seq = old.lost_seq or (0 if self.is_held(chain, old) else old.seq)
        if place is None or (not lost_seq and place.end < old.end):
            return replace(old, lost_seq=lost_seq)
        return _record(place, lost_seq)

    def _replace(self, manifest: Manifest) -> None:
        part = self._path.with_name(f".{FILE_NAME}.part")  # under the lock there is one at a time
        with _opened(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            write_all(descriptor, self._render(manifest), 0)
            os.fsync(descriptor)
        part.replace(self._path)
        sync(self._path.parent)
        with self._guard:
            self._known = manifest
            self._read = (_version(self._path), manifest)

    def _render(self, manifest: Manifest) -> bytes:
        rows = [
            (chain.org_id, chain.environment, r.seq, r.hash, r.signed_us, r.end, r.digest, r.lost_seq)
            for chain, r in sorted(manifest.records.items(), key=lambda item: (item[0].org_id, item[0].environment))
        ]
        body = b"[" + b",\n".join(map(orjson.dumps, rows)) + b"]\n"
        header: dict[str, Json] = {
            "number": manifest.number,
            "began_us": manifest.began_us,
            "started_us": manifest.started_us,
            "written_us": manifest.written_us,
            "chains": len(rows),
            "digest": sha256(body).hexdigest(),
        }
        signed = {**header, "key_id": self._signer.key_id, "signature": self._signer.sign_bytes(_signed_bytes(header))}
        return orjson.dumps(signed) + b"\n" + body

    def _content(self) -> bytes:
        """Raises ``ManifestRefused`` for a file that no manifest is as large as, or that is none."""
        with _opened(self._path, os.O_RDONLY) as descriptor:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _BYTES_MAX:
                raise ManifestRefused(is_foreign=False)
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                return stream.read(_BYTES_MAX)

    def _parse(self, content: bytes) -> Manifest:
        head, _, body = content.partition(b"\n")
        try:
            header: dict[str, Json] = orjson.loads(head[:_HEADER_BYTES_MAX])
            key_id, signature = header.pop("key_id"), str(header.pop("signature"))
            if key_id != self._signer.key_id:
                raise ManifestRefused(is_foreign=True)
            is_ours = self._signer.holds_bytes(signature, _signed_bytes(header))
            if not is_ours or sha256(body).hexdigest() != header["digest"]:
                raise ManifestRefused(is_foreign=False)
        except ManifestRefused:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ManifestRefused(is_foreign=False) from None
        number, began_us, started_us, written_us = (cast("int", header[name]) for name in _NUMBERS)
        return Manifest(number, began_us, started_us, written_us, _records(orjson.loads(body)))


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _record(place: Place, lost_seq: int = 0) -> Record:
    checkpoint = place.checkpoint
    return Record(checkpoint.seq, checkpoint.hash, checkpoint.signed_us, place.end, _digest(place.line), lost_seq)


def _records(rows: Sequence[Sequence[object]]) -> dict[Chain, Record]:
    """From the signed body."""
    return {
        Chain(str(org_id), cast("Environment", environment)): Record(*cast("tuple[int, str, int, int, str, int]", rest))
        for org_id, environment, *rest in rows
    }


def _signed_bytes(header: Mapping[str, Json]) -> bytes:
    return canonical({"purpose": _PURPOSE, **header})


def _digest(line: bytes) -> str:
    return sha256(line).hexdigest()[:_DIGEST_CHARACTERS]


@contextmanager
def _opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
