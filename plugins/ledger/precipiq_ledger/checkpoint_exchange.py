"""Exchanges checkpoints between nodes through the database, into files of each node's own.

The database only carries them: a node refuses a line that this deployment's key did not sign, and no change of the
database removes a line from a node's files.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import orjson
import structlog

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database, Statement
from precipiq_ledger.checkpointer import Checkpointer
from precipiq_ledger.checkpoints import Checkpoint, CheckpointSigner, parse_checkpoint

log = structlog.get_logger("precipiq.ledger")

EXCHANGE_INTERVAL_S = 1.5
"""The contract: a checkpoint is with every node within 5 seconds; it waits once to be sent and once to be fetched."""

_OVERLAP_US = 60_000_000  # clocks differ, and transactions commit in another order than they begin
_KEPT_US = 24 * 3600 * 1_000_000
_PRUNE_ROUNDS = 2400
_FETCHED_MAX = 1000
_REFUSED_REMEMBERED_MAX = 1000

_SEND = """
INSERT INTO ledger_checkpoints (org_id, environment, seq, line, shared_us)
VALUES (:org_id, :environment, :seq, :line, :shared_us)
ON CONFLICT (org_id, environment, seq) DO NOTHING
"""
_FETCH = """
SELECT org_id, environment, seq, line, shared_us FROM ledger_checkpoints
WHERE (shared_us, org_id, environment, seq) > (:shared_us, :org_id, :environment, :seq)
ORDER BY shared_us, org_id, environment, seq LIMIT :limit
"""
_PRUNE = """
DELETE FROM ledger_checkpoints AS old WHERE shared_us < :until_us AND EXISTS (
    SELECT 1 FROM ledger_checkpoints AS newer
    WHERE newer.org_id = old.org_id AND newer.environment = old.environment AND newer.seq > old.seq
)
"""


class CheckpointExchange:
    """Sends this node's checkpoints and fetches the other nodes', as long as :meth:`run` is entered."""

    def __init__(self, database: Database, signer: CheckpointSigner, checkpointer: Checkpointer, clock: Clock) -> None:
        self._database = database
        self._signer = signer
        self._checkpointer = checkpointer
        self._clock = clock
        self._fetched_until_us = 0
        self._refused: set[str] = set()
        checkpointer.on_signed = self._note_signed
        self._unsent: dict[Chain, Checkpoint] = {}
        self._round_number = 0

    def _note_signed(self, chain: Chain, checkpoint: Checkpoint) -> None:
        self._unsent[chain] = checkpoint

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Exchange while the context is entered; at its end, send the rest."""
        return background(
            "ledger.checkpoint_exchange",
            self._exchange,
            every_s=EXCHANGE_INTERVAL_S,
            failing="checkpoints are not exchanged with other nodes",
            again="checkpoints are exchanged with other nodes again",
            round_s_max=LONG_ROUND_S_MAX,
            final=self.send,
        )

    async def _exchange(self) -> None:
        await self.send()
        await self.fetch()
        if self._round_number % _PRUNE_ROUNDS == 0:
            until_us = self._clock.now_us() - _KEPT_US
            await self._database.transaction([Statement(_PRUNE, {"until_us": until_us})])
        self._round_number += 1

    async def send(self) -> None:
        """Store this node's new checkpoints where the other nodes fetch them."""
        unsent = dict(self._unsent)
        if not unsent:
            return
        await self._database.transaction([self._row(checkpoint) for checkpoint in unsent.values()])
        for chain, checkpoint in unsent.items():
            if self._unsent.get(chain) == checkpoint:
                del self._unsent[chain]

    async def fetch(self) -> None:
        """Take the other nodes' checkpoints into this node's files."""
        place: dict[str, str | int] = {
            "shared_us": self._fetched_until_us - _OVERLAP_US,
            "org_id": "",
            "environment": "",
            "seq": 0,
        }
        while rows := await self._database.fetch(Statement(_FETCH, {**place, "limit": _FETCHED_MAX})):
            for row in rows:
                await self._take(str(row["line"]))
                place = {name: row[name] for name in place}  # type: ignore[misc]
            self._fetched_until_us = max(self._fetched_until_us, int(place["shared_us"]))
        await self._checkpointer.note()

    async def _take(self, line: str) -> None:
        try:
            checkpoint = parse_checkpoint(line.encode())
        except ValueError as error:  # one bad row must not keep the others from coming
            self._refuse(line, reason=str(error))
            return
        if self._signer.holds(checkpoint):
            await self._checkpointer.keep(checkpoint)
        else:
            self._refuse(line, org_id=checkpoint.org_id, environment=checkpoint.environment, seq=checkpoint.seq)

    def _refuse(self, line: str, **what: object) -> None:
        if line in self._refused:
            return
        if len(self._refused) >= _REFUSED_REMEMBERED_MAX:
            self._refused.clear()
        self._refused.add(line)
        log.critical(
            "a checkpoint in the database is not signed by this deployment's key: it is forged, or the nodes do "
            "not share one master key",
            **what,
        )

    def _row(self, checkpoint: Checkpoint) -> Statement:
        return Statement(
            _SEND,
            {
                "org_id": checkpoint.org_id,
                "environment": checkpoint.environment,
                "seq": checkpoint.seq,
                "line": orjson.dumps(checkpoint).decode(),
                "shared_us": self._clock.now_us(),
            },
        )
