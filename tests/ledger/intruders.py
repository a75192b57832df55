"""Somebody with every right in a database, and cheap copies of a database for him to spoil."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.entry_store import EntryAuditor, EntryStore
from precipiq_contracts.ledger import ChainBreak, ChainVerdict
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoints import CheckpointSigner
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_postgres import service as postgres
from precipiq_postgres.config import PostgresConfig
from precipiq_postgres.entries.audit import PostgresAuditor
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.audit import SqliteAuditor
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.sealing import Writer
from precipiq_testkit.server import ServerProcess

CHAIN, OTHER_CHAIN = Chain("org_alpha", "live"), Chain("org_beta", "live")
ENTRIES, REDACTED, REDACTION = 9, 2, 8
BYTES = ("statement", "payload", "idempotency_key")
"""Columns whose values are bytes here, whatever the database calls them."""

STORED = ("org_id", "environment", "seq", "statement", "payload", "hash", "idempotency_key", "idempotency_check", "mac")
"""What both databases store; the rest SQLite generates when it is read."""


class Signing:
    """A master key of no secrecy."""

    def derive(self, purpose: str) -> bytes:
        return sha256(purpose.encode()).digest()


SIGNER = CheckpointSigner(Signing())
INLINE = VerifierLimits(3, 2, 1_000_000, 4, 100)
IN_PROCESSES = VerifierLimits(3, 2, 0, 4, 100)


async def fill(store: EntryStore) -> None:
    """A chain of :data:`ENTRIES` entries with everything that a chain may hold, and another chain."""
    writer = Writer(store)
    await writer.append(CHAIN, writer.draft(kind="key_created", body={"key_id": "key_1"}, erasable=False))
    [redacted] = (await writer.append(CHAIN, writer.draft("a", key="key-2", metadata={"k": "v"}))).entries
    strange = {"agent_id": "nul \0 and Zoë 🚀", "action_type": '"quoted" \\ \n', "confidence": 2**70}
    await writer.append(CHAIN, writer.draft(body=strange, payload={"inputs": {"id": -(2**80), "\0": "\0"}}))
    await writer.append(CHAIN, writer.draft("a", key="key-4", metadata={"k": "v"}))
    await writer.append(CHAIN, writer.draft("é\0" * 150, key="k" * 200, body={"action_type": "🚀" * 300}))
    await writer.append(CHAIN, writer.draft(metadata={"k": "v"}))
    await writer.append(CHAIN, writer.draft(key="clé 🚀", body={"target_seq": 2**63 - 1}))
    await writer.redact(CHAIN, redacted)
    await writer.append(
        CHAIN, writer.draft(key="key-9", body={"agent_id": None, "action_type": 5, "target_seq": 2**70})
    )
    others = await writer.fill(OTHER_CHAIN, 3)
    await writer.redact(OTHER_CHAIN, others[2])


class Intruder(ABC):
    """Reads and alters the entries of one chain, without the triggers. A row's place is good until it is put again."""

    columns: tuple[str, ...]
    """The columns that are stored."""
    impossible_seqs: tuple[object, ...]
    """What the column of seqs takes beside numbers of entries."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.chain = chain
        self.files = CheckpointFiles(folder / "checkpoints")

    @abstractmethod
    def auditor(self) -> EntryAuditor:
        """The auditor that a server would use."""

    @abstractmethod
    def execute(self, sql: str, *parameters: object) -> list[Any]:
        """A statement with ``?`` for its parameters; its rows."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def drop_triggers(self) -> None: ...

    @abstractmethod
    def drop_constraints(self) -> None:
        """Indexes too: afterwards every row can stand anywhere and more than once."""

    @abstractmethod
    def get(self, seq: int, *columns: str) -> Sequence[Any]:
        """The values of one entry."""

    @abstractmethod
    def place(self, seq: int) -> object:
        """Where the row of that entry lies."""

    @abstractmethod
    def put(self, place: object, /, **values: object) -> object | None:
        """Alter a row; its new place, or None when the database itself cannot store this."""

    @abstractmethod
    def insert(self, values: Mapping[str, Any]) -> None:
        """Insert a row; of the values, those that the table stores."""

    @abstractmethod
    def copy(self, seq: int, /, **changes: object) -> None:
        """Insert another row like that entry's, with these changes."""

    def seqs(self) -> list[int]:
        rows = self.execute("SELECT seq FROM entries WHERE org_id = ? AND environment = ? ORDER BY seq", *self._filed)
        return [row[0] for row in rows]

    def set(self, seq: int, /, **values: object) -> None:
        """Alter the row of that entry."""
        assert self.put(self.place(seq), **values) is not None

    def remove(self, first: int, last: int = 2**62) -> None:
        """Delete a range of the chain's rows."""
        sql = "DELETE FROM entries WHERE org_id = ? AND environment = ? AND seq BETWEEN ? AND ?"
        self.execute(sql, *self._filed, first, last)

    @property
    def _filed(self) -> tuple[str, str]:
        return self.chain.org_id, self.chain.environment

    def checkpoint(self, seq: int) -> None:
        """What the server had signed before the intruder came."""
        [stored] = self.get(seq, "hash")
        self.files.append(SIGNER.sign(self.chain, Head(seq, stored, 0), 1_700_000_000_000_000))

    def verify(self, limits: VerifierLimits = INLINE, from_seq: int = 1) -> ChainVerdict:
        """What the server's verification says."""
        return asyncio.run(Verifier(Signing(), self.files, limits).verify(self.auditor(), self.chain, from_seq))

    def found(self, limits: VerifierLimits = INLINE) -> tuple[int, str] | None:
        """Where and what the first break is."""
        broken = self.verify(limits).broken
        return None if broken is None else (broken.seq, broken.code)

    def broken(self) -> ChainBreak | None:
        return self.verify().broken


class SqliteIntruder(Intruder):
    """With write access to the file."""

    columns = STORED
    impossible_seqs = (0, -1, -(2**63), 2**63 - 1, ENTRIES + 0.5, "x", b"x", b"\xff" * 50)

    def __init__(self, path: Path, chain: Chain, folder: Path) -> None:
        super().__init__(chain, folder)
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=20)

    def auditor(self) -> EntryAuditor:
        return SqliteAuditor(self.path, 5.0)

    def execute(self, sql: str, *parameters: object) -> list[Any]:
        return self.connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self.connection.close()

    def drop_triggers(self) -> None:
        for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            self.execute(f"DROP TRIGGER {name}")

    def drop_constraints(self) -> None:
        sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'entries' AND sql IS NOT NULL"
        for (name,) in self.execute(sql):
            self.execute(f"DROP INDEX {name}")

    def get(self, seq: int, *columns: str) -> Sequence[Any]:
        chosen = ", ".join(f"CAST({name} AS BLOB)" if name in BYTES else name for name in columns)
        sql = f"SELECT {chosen} FROM entries WHERE org_id = ? AND environment = ? AND seq = ?"
        [row] = self.execute(sql, *self._filed, seq)
        return list(row)

    def place(self, seq: int) -> object:
        sql = "SELECT rowid FROM entries WHERE org_id = ? AND environment = ? AND seq = ?"
        return self.execute(sql, *self._filed, seq)[0][0]

    def put(self, place: object, /, **values: object) -> object | None:
        assignments = ", ".join(f"{name} = {_sqlite_value(name)}" for name in values)
        try:
            self.execute(f"UPDATE entries SET {assignments} WHERE rowid = ?", *values.values(), place)
        except sqlite3.OperationalError as error:  # the statement would be no JSON any more: nothing can be generated
            if "locked" in str(error):
                raise
            return None
        return place

    def insert(self, values: Mapping[str, Any]) -> None:
        marks = ", ".join(map(_sqlite_value, self.columns))
        sql = f"INSERT INTO entries ({', '.join(self.columns)}) VALUES ({marks})"
        self.execute(sql, *(values[name] for name in self.columns))

    def copy(self, seq: int, /, **changes: object) -> None:
        changes = {name: value for name, value in changes.items() if name in self.columns}
        chosen = ", ".join(_sqlite_value(name) if name in changes else name for name in self.columns)
        parameters = [changes[name] for name in self.columns if name in changes]
        sql = f"INSERT INTO entries ({', '.join(self.columns)}) SELECT {chosen} FROM entries WHERE rowid = ?"
        self.execute(sql, *parameters, self.place(seq))


def _sqlite_value(column: str) -> str:
    return "CAST(? AS TEXT)" if column in BYTES else "?"


class PostgresIntruder(Intruder):
    """A superuser."""

    columns = (*STORED, "id", "kind", "agent_id", "action_type", "redacts_seq")
    impossible_seqs = (0, -1, -(2**63), 2**63 - 1)

    def __init__(self, database: PostgresDatabase, chain: Chain, folder: Path) -> None:
        super().__init__(chain, folder)
        self.database = database
        self._loop = asyncio.new_event_loop()
        self._connection = self._run(asyncpg.connect(database.admin_url, server_settings={"search_path": "precipiq"}))

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def auditor(self) -> EntryAuditor:
        opened = core_database(self.database)
        return PostgresAuditor(opened.address, opened.roles, 5.0)

    def execute(self, sql: str, *parameters: object) -> list[Any]:
        if not parameters and ";" in sql:
            self._run(self._connection.execute(sql))
            return []
        numbers = count(1)
        parts = sql.split("?")
        numbered = parts[0] + "".join(f"${next(numbers)}{part}" for part in parts[1:])
        return list(self._run(self._connection.fetch(numbered if parameters else sql, *parameters)))

    def close(self) -> None:
        self._run(self._connection.close())
        self._loop.close()

    def drop_triggers(self) -> None:
        sql = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'entries'::regclass AND NOT tgisinternal"
        for (name,) in self.execute(sql):
            self.execute(f"DROP TRIGGER {name} ON entries")

    def drop_constraints(self) -> None:
        sql = "SELECT conname FROM pg_constraint WHERE conrelid = 'entries'::regclass AND contype IN ('p', 'c')"
        for (name,) in self.execute(sql):
            self.execute(f"ALTER TABLE entries DROP CONSTRAINT {name}")
        for (name,) in self.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'entries'::regclass"
        ):
            self.execute(f"DROP INDEX {name}")

    def get(self, seq: int, *columns: str) -> Sequence[Any]:
        chosen = ", ".join("id::text" if name == "id" else name for name in columns)
        sql = f"SELECT {chosen} FROM entries WHERE org_id = ? AND environment = ? AND seq = ?"
        [row] = self.execute(sql, *self._filed, seq)
        return list(row)

    def place(self, seq: int) -> object:
        sql = "SELECT ctid FROM entries WHERE org_id = ? AND environment = ? AND seq = ?"
        return self.execute(sql, *self._filed, seq)[0][0]

    def put(self, place: object, /, **values: object) -> object | None:
        assignments = ", ".join(f"{name} = ?" for name in values)
        sql = f"UPDATE entries SET {assignments} WHERE ctid = ? RETURNING ctid"
        [(new_place,)] = self.execute(sql, *values.values(), place)
        return new_place

    def copy(self, seq: int, /, **changes: object) -> None:
        self.insert(dict(zip(self.columns, self.get(seq, *self.columns), strict=True)) | changes)

    def insert(self, values: Mapping[str, Any]) -> None:
        marks = ", ".join("?" * len(values))
        self.execute(f"INSERT INTO entries ({', '.join(values)}) VALUES ({marks})", *values.values())


def intruder_of(server: ServerProcess, chain: Chain, folder: Path) -> Intruder:
    """One who got into that server's database."""
    if server.postgres is None:
        return SqliteIntruder(server.database_file, chain, folder)
    return PostgresIntruder(server.postgres, chain, folder)


def core_database(database: PostgresDatabase, **settings: object) -> postgres.PostgresDatabase:
    """The core's database over the same; its secrets must be in the environment."""
    return postgres.PostgresDatabase(PostgresConfig.model_validate(database.settings() | settings))


class Original(ABC):
    """A database that stays as it is; ``fresh`` makes a place for an intruder to spoil."""

    @abstractmethod
    def fresh(self, folder: Path) -> Intruder:
        """In front of a copy; there is one copy at a time."""


@dataclass(frozen=True)
class SqliteOriginal(Original):
    path: Path

    def fresh(self, folder: Path) -> Intruder:
        copied = folder / "precipiq.db"
        shutil.copy(self.path, copied)
        return SqliteIntruder(copied, CHAIN, folder)


class PostgresCopies:
    """Keeps a database as it is now beside itself, to start from it again and again under its own name."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self._kept = f"{database.name}_kept"
        self._server = database.server
        self._settings = database.sql(
            "SELECT setrole::regrole::text, split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1) "
            "FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS setting "
            "WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        self._server.sql(f"CREATE DATABASE {self._kept} TEMPLATE {database.name}")

    def restore(self) -> None:
        name = self.database.name
        self._server.sql(
            f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE {self._kept}",
            *(
                f"ALTER ROLE {role} IN DATABASE {name} SET {key} = " + (value if key == "search_path" else f"'{value}'")
                for role, key, value in self._settings
            ),
        )

    def drop(self) -> None:
        self._server.sql(f"DROP DATABASE IF EXISTS {self._kept} WITH (FORCE)")


@dataclass(frozen=True)
class PostgresOriginal(Original):
    copies: PostgresCopies

    def fresh(self, folder: Path) -> Intruder:
        self.copies.restore()
        return PostgresIntruder(self.copies.database, CHAIN, folder)


@contextmanager
def sqlite_original(folder: Path) -> Iterator[Original]:
    """With the chain of :func:`fill`."""
    database = SqliteDatabase(SqliteConfig(migrate_at_start=True), folder / "precipiq.db")
    asyncio.run(_fill(database, SqliteDriver(database)))
    yield SqliteOriginal(database.path)


@contextmanager
def postgres_original(fresh: PostgresDatabase) -> Iterator[Original]:
    """The same in a fresh database, which is spoilt from then on."""
    database = core_database(fresh)
    asyncio.run(_fill(database, PostgresDriver(database)))
    copies = PostgresCopies(fresh)
    try:
        yield PostgresOriginal(copies)
    finally:
        copies.drop()


async def _fill(database: Any, driver: Any) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(database.open(driver.migrations))
        await fill(await stack.enter_async_context(driver.open()))
