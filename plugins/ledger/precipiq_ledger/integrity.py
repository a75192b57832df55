"""What is known of the chains' integrity now, whoever found it: for `/readyz`, the interface, streams and signing."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Any

import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import ChainBreak, ChainVerdict
from precipiq_ledger.anchors import CODES_OF_FILES
from precipiq_ledger.grading import grade_record
from precipiq_ledger.records import break_record
from precipiq_ledger.row_trust import judge
from precipiq_ledger.sweep_book import SweepBook, Swept
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.swept_verdict import verdict_of
from precipiq_macs.row_macs import RowFinding

log = structlog.get_logger("precipiq.ledger")


class Integrity:
    """The findings of the sweep. ``within_s``: the time within which each chain is to be checked whole.

    ``changed`` is set when a fault is found or gone. ``index_problems``: what this process found, sentences.
    """

    def __init__(self, clock: Clock, metrics: SweepMetrics, within_s: float) -> None:
        self.book = SweepBook()
        self.changed = asyncio.Event()
        self.index_problems: tuple[str, ...] = ()
        self._clock = clock
        self._metrics = metrics
        self._within_s = within_s

    def broken(self, chain: Chain) -> ChainBreak | None:
        """The fault found in that chain, until it is gone."""
        swept = self.book.chains.get(chain)
        return None if swept is None else swept.broken

    def may_sign(self, chain: Chain) -> bool:
        """Whether a checkpoint of that chain may be signed: no fault is known but in the files of checkpoints."""
        broken = self.broken(chain)
        return broken is None or broken.code in CODES_OF_FILES

    def replace(self, book: SweepBook) -> None:
        """Take what another process found, or this one before it was started again."""
        book.count_since(self._clock.now_us(), self._clock.monotonic_s(), self._within_s)
        before, self.book = self.book.broken(), book
        now = book.broken()
        for chain, broken in now.items():
            if before.get(chain) != broken:
                self.announce(chain, broken)
        for chain in before.keys() - now.keys():
            self.announce(chain, None)
        self.show()

    def announce(self, chain: Chain, broken: ChainBreak | None) -> None:
        """Tell everybody of a fault that was found, or that one is gone."""
        names = {"org_id": chain.org_id, "environment": chain.environment}
        if broken is None:
            log.warning("a chain that was broken holds again", **names)
        else:
            what = {"seq": broken.seq, "code": broken.code, "reason": broken.reason}
            log.critical("a chain is broken: nothing is signed over it", **names, **what)
        self.changed.set()

    def note_rows(self, chain: Chain, findings: tuple[RowFinding, ...]) -> None:
        """Take what a comparison of that chain's rows found; tell everybody what is new."""
        before = self.book.rows.get(chain, ())
        if findings:
            self.book.rows[chain] = findings
        else:
            self.book.rows.pop(chain, None)
        names = {"org_id": chain.org_id, "environment": chain.environment}
        for finding in findings:
            if finding not in before:
                what = "a row grants what its chain does not say: it does not count"
                log.critical(what, **names, code=finding.code, row=finding.row, reason=finding.reason)
        if before and not findings:
            log.warning("the rows of a chain are again as the chain says", **names)
        if before != findings:
            self.changed.set()

    def note_graded(self, chain: Chain, swept: Swept) -> None:
        """Tell of what the last pass found that fails no chain, such as an anchor that is too old."""
        for finding in () if swept.compared is None else swept.compared.comparison.findings:
            log.warning("a chain's verdict is graded down", org_id=chain.org_id, environment=chain.environment,
                        seq=finding.seq, code=finding.code, reason=finding.reason)  # fmt: skip

    def show(self) -> None:
        """Bring the metrics up to date."""
        now_s = self._clock.monotonic_s()
        verdicts = Counter(self._verdict(swept).verdict for swept in self.book.chains.values())
        self._metrics.note(self.book, now_s, verdicts)

    def _verdict(self, swept: Swept | None) -> ChainVerdict:
        now_s = self._clock.monotonic_s()
        return verdict_of(swept, is_stale=swept is not None and swept.age_s(now_s) > self._within_s)

    async def tell(self) -> None:
        """Raises ``Unavailable``, for `/readyz`, while a chain is broken or long unchecked, or the schema changed."""
        broken = len(self.book.broken())
        if broken:
            raise Unavailable(f"{broken} broken: see the log, and `precipiq ledger verify --all`")
        if self.book.drift:
            raise Unavailable(
                f"SCHEMA_DRIFT: {len(self.book.drift)} objects of the schema are not as they were recorded"
            )
        if self.index_problems:
            raise Unavailable(f"INDEX_INCOMPLETE: {self.index_problems[0]}")
        rows = [finding for findings in self.book.rows.values() for finding in findings]
        if rows:
            raise Unavailable(f"{rows[0].code}: {len(rows)} rows are not what their chains say: see the log")
        stale = self.book.stale(self._clock.monotonic_s(), self._within_s)
        if stale:
            raise Unavailable(f"SWEEP_STALE: {stale} not checked within {self._within_s:.0f} s")

    def record(self, chain: Chain) -> dict[str, Any]:
        """What is known of that chain, as the interface shows it."""
        swept = self.book.chains.get(chain)
        found = self.book.rows.get(chain, ())
        verdict = judge(self._verdict(swept), found)
        rows = {"unannounced_rows": [asdict(finding) for finding in found]}
        graded = {"is_valid": verdict.is_valid, **grade_record(verdict, self._clock.now_us()), **rows}
        if swept is None:
            nothing = {"first_broken_link": None, "checked_through": None, "last_pass": None}
            return {"status": "not_checked", **nothing, **graded}
        last = swept.last
        is_stale = swept.age_s(self._clock.monotonic_s()) > self._within_s
        status = "broken" if swept.broken else "stale" if is_stale else "whole" if last else "not_checked"
        return {
            "status": status,
            "first_broken_link": None if swept.broken is None else break_record(swept.broken),
            "checked_through": {
                "seq": swept.tail.seq,
                "hash": swept.tail.hash,
                "at": format_timestamp(swept.tail_us) if swept.tail_us else None,
            },
            "last_pass": None
            if last is None
            else {
                "began_at": format_timestamp(last.began_us),
                "ended_at": format_timestamp(last.ended_us),
                "records_checked": last.checked_count,
                "head": {"seq": last.seq, "hash": last.hash},
            },
            **graded,
        }
