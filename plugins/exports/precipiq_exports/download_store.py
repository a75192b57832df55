"""The table of downloads, as typed functions over the core's database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.errors import Unavailable
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_exports.jobs import Job

_COLUMNS = (
    "download_id, export_id, org_id, environment, actor, opened_us, entry_id, entry_seq, requests, asked_bytes, "
    "sent_bytes"
)

_OF_KEY = "export_id = :export_id AND actor = :actor"
_IN_TIME = "opened_us BETWEEN :since AND :until"


@dataclass(frozen=True, slots=True)
class RecordedDownload:
    """One download of a bundle by one key; its requests share one entry of the chain.

    ``opened_us``: microseconds since the epoch. ``entry_id`` and ``entry_seq``: its entry, None before that was noted.
    ``asked_bytes``: of all its requests' ranges, counted before a byte is sent, so never less than what left.
    ``sent_bytes``: handed to the connections, counted when a request ends, so a killed process leaves some out.
    """

    download_id: str
    export_id: str
    chain: Chain
    actor: str
    opened_us: int
    entry_id: str | None = None
    entry_seq: int | None = None
    requests: int = 0
    asked_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """The opening times of downloads that a request may still belong to, microseconds since the epoch, both included.

    It reaches into the future: a machine whose clock is ahead may have opened one.
    """

    since_us: int
    until_us: int

    def values(self) -> dict[str, Scalar]:
        return {"since": self.since_us, "until": self.until_us}


class DownloadStore:
    """Downloads of the exports of all chains."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, job: Job, actor: str, span: Span) -> RecordedDownload | None:
        """The newest download of that key whose entry was noted."""
        sql = (
            f"SELECT {_COLUMNS} FROM export_downloads WHERE {_OF_KEY} AND {_IN_TIME} AND entry_id IS NOT NULL "  # noqa: S608
            "ORDER BY download_id DESC LIMIT 1"
        )
        values: dict[str, Scalar] = {"export_id": job.export_id, "actor": actor, **span.values()}
        rows = await self._database.fetch_as(job.chain, Statement(sql, values))
        return _download(rows[0]) if rows else None

    async def open(self, new: RecordedDownload, span: Span, *, is_whole: bool) -> RecordedDownload | None:
        """The download that the request belongs to, stored when it is a new one; None when the bundle is gone.

        Requests of one key that arrive together, on any nodes, get the same: one whose entry is not noted yet comes
        first, since no byte has left under it.
        """
        key: dict[str, Scalar] = {"export_id": new.export_id, "actor": new.actor}
        own = "entry_id IS NULL" if is_whole else f"(entry_id IS NULL OR {_IN_TIME})"
        there_is = "EXISTS (SELECT 1 FROM exports WHERE export_id = :export_id AND status = 'completed')"
        known = f"SELECT 1 FROM export_downloads WHERE {_OF_KEY} AND {own}"  # noqa: S608
        statements = [
            # The export's row is the lock of its downloads.
            Statement(
                "UPDATE exports SET attempt = attempt WHERE export_id = :export_id", {"export_id": new.export_id}
            ),
            # Its entry, if a killed process sealed one, would be of another time than the bytes.
            Statement(
                f"DELETE FROM export_downloads WHERE {_OF_KEY} AND entry_id IS NULL AND NOT ({_IN_TIME})",  # noqa: S608
                {**key, **span.values()},
            ),
            Statement(
                "INSERT INTO export_downloads (download_id, export_id, org_id, environment, actor, opened_us) "
                "SELECT :download_id, :export_id, :org_id, :environment, :actor, :opened_us "
                f"WHERE {there_is} AND NOT EXISTS ({known})",
                {
                    **key,
                    **chain_values(new.chain),
                    "download_id": new.download_id,
                    "opened_us": new.opened_us,
                    **({} if is_whole else span.values()),
                },
            ),
            Statement(
                f"UPDATE export_downloads SET requests = requests WHERE {there_is} AND download_id = ("  # noqa: S608
                f"SELECT download_id FROM export_downloads WHERE {_OF_KEY} AND {own} "
                "ORDER BY CASE WHEN entry_id IS NULL THEN 0 ELSE 1 END, download_id DESC LIMIT 1) "
                f"RETURNING {_COLUMNS}",
                {**key, **({} if is_whole else span.values())},
            ),
        ]
        rows = (await self._database.transaction(statements))[-1]
        return _download(rows[0]) if rows else None

    async def count(self, download: RecordedDownload, asked_bytes: int) -> None:
        """Count a request under the download, and note its entry. Raises ``Unavailable``, also for a missing row."""
        sql = (
            "UPDATE export_downloads SET entry_id = :entry_id, entry_seq = :entry_seq, requests = requests + 1, "
            "asked_bytes = asked_bytes + :bytes WHERE download_id = :download_id RETURNING download_id"
        )
        values: dict[str, Scalar] = {
            "entry_id": download.entry_id,
            "entry_seq": download.entry_seq,
            "bytes": asked_bytes,
            "download_id": download.download_id,
        }
        if not (await self._database.transaction([Statement(sql, values)]))[0]:
            raise Unavailable("the download's record disappeared; try again")

    async def add_sent(self, download_id: str, sent_bytes: int) -> None:
        """Count what a request has sent."""
        sql = "UPDATE export_downloads SET sent_bytes = sent_bytes + :bytes WHERE download_id = :download_id"
        await self._database.transaction([Statement(sql, {"bytes": sent_bytes, "download_id": download_id})])

    async def page(
        self, chain: Chain, export_id: str | None, before_id: str | None, limit: int
    ) -> list[RecordedDownload]:
        """Those with an entry, of one export or of all, newest first: ids grow with time.

        ``before_id``: the last id of the page before.
        """
        where, values = "", dict[str, Scalar](limit=limit)
        if export_id is not None:
            where, values["export_id"] = "AND export_id = :export_id ", export_id
        if before_id is not None:
            where, values["before"] = f"{where}AND download_id < :before ", before_id
        sql = (
            f"SELECT {_COLUMNS} FROM export_downloads WHERE entry_id IS NOT NULL {where}"  # noqa: S608
            "ORDER BY download_id DESC LIMIT :limit"
        )
        return [_download(row) for row in await self._database.fetch_as(chain, Statement(sql, values))]


def _download(row: Row) -> RecordedDownload:
    return RecordedDownload(
        str(row["download_id"]),
        str(row["export_id"]),
        chain_in(row),
        str(row["actor"]),
        cast("int", row["opened_us"]),
        cast("str | None", row["entry_id"]),
        cast("int | None", row["entry_seq"]),
        cast("int", row["requests"]),
        cast("int", row["asked_bytes"]),
        cast("int", row["sent_bytes"]),
    )
