"""Says what is wrong with rows, once each in a process: a row that is asked for often does not fill the log."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from precipiq_contracts.chain import Chain
from precipiq_macs.row_macs import RowFinding

_LOGGED_MAX = 1000

NOT_OURS = "its row was not written by a server of this deployment"
"""The reason of a row whose MAC does not hold."""


class RowReports:
    """``what``: the sentence of the log, such as "an API key does not count"; ``logger``: the plugin's name there."""

    def __init__(self, logger: str, what: str) -> None:
        self._log = structlog.get_logger(logger)
        self._what = what
        self._logged: set[RowFinding] = set()

    def note(self, chain: Chain, findings: Sequence[RowFinding]) -> None:
        """Log those that were not logged yet."""
        for finding in findings:
            if finding not in self._logged and len(self._logged) < _LOGGED_MAX:
                self._logged.add(finding)
                names = {"org_id": chain.org_id, "environment": chain.environment}
                self._log.critical(self._what, code=finding.code, row=finding.row, **names, reason=finding.reason)
