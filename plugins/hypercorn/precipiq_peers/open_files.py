"""The process's limit of open files: a connection is one, and the usual soft limit is 1024."""

from __future__ import annotations

import os
import resource

import structlog

log = structlog.get_logger("precipiq.serving")

_CONNECTIONS_MAX = 10_000
_CONNECTIONS_MIN = 16


def raise_open_files_limit() -> None:
    """Raise the soft limit to the hard one, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # some systems name a hard limit that they do not grant
        return
    log.info("limit of open files raised", before=soft, now=hard)


def connections_max(wanted: int | None) -> int:
    """How many connections may be open: as wanted, by default 10,000, and at most three quarters of the open files.

    The rest is for databases, logs and what an answer reads. Less than wanted is logged.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(_CONNECTIONS_MIN, soft * 3 // 4) if soft != resource.RLIM_INFINITY else 2**31
    if wanted is not None and wanted > possible:
        log.warning("fewer connections than set: the limit of open files is too low", wanted=wanted, now=possible)
    return min(possible, _CONNECTIONS_MAX if wanted is None else wanted)


def has_free_file() -> bool:
    """Whether the process can open one more file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
