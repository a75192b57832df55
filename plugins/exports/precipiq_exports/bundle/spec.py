"""The input of a bundle and its summary. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor

Format: TypeAlias = Literal["jsonl", "csv"]
Filters: TypeAlias = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Table:
    """A list beside the raw entries, named ``<name>.jsonl`` and ``<name>.csv``: the entries of these kinds.

    ``body_fields``, ``payload_fields``: columns that stay, and columns that may be erased.
    """

    name: str
    kinds: tuple[str, ...]
    body_fields: tuple[str, ...]
    payload_fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SigningKeyInfo:
    """The key that signs. ``public_key_pem``: as OpenSSL reads it; ``announced_seq``: the entry that names it."""

    key_id: str
    public_key_pem: str
    fingerprint: str
    announced_seq: int | None


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Everything that decides a bundle's bytes but the entries. Picklable.

    ``created_us``: microseconds since the epoch. ``filters``: as they were asked for; ``agent_id`` and ``action_type``
    choose decisions, the others are what led to the range, ``after_seq`` < seq <= ``through_seq``. ``tables``: by
    name. ``verification``: what verifying that range gave, as JSON; it has ``is_valid``, ``first_seq``, ``last_seq``,
    ``entries_checked`` and ``first_break``, which verifiers compare with the entries, and how the verdict is graded.
    """

    export_id: str
    chain: Chain
    created_us: int
    actor: str
    filters: Filters
    after_seq: int
    through_seq: int
    formats: tuple[Format, ...]
    tables: tuple[Table, ...]
    verification: Mapping[str, Any]
    signing_key: SigningKeyInfo
    software_version: str
    batch_entries: int = 1000
    compression_level: int = 6

    @property
    def table_files(self) -> tuple[tuple[Table, Format], ...]:
        """The lists in the bundle's order."""
        return tuple((table, format) for table in self.tables for format in self.formats)


@dataclass(frozen=True, slots=True)
class BundleTask:
    """The task of a bundle's process: content, source and destination."""

    auditor: EntryAuditor
    spec: BundleSpec
    path: Path


@dataclass(frozen=True, slots=True)
class BundleSummary:
    """A finished bundle. ``counts``: raw entries by kind; ``size_bytes`` and ``sha256`` are of the whole ZIP.

    ``table_rows``: by name of the file. ``first_seq`` and ``last_seq``: of the entries in it, None without any.
    """

    entries_count: int
    counts: Mapping[str, int]
    table_rows: Mapping[str, int]
    size_bytes: int
    sha256: str
    first_seq: int | None
    last_seq: int | None
