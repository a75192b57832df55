"""The process's limit of open files: a connection is one, and the usual soft limit is 1024."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger("precipiq.serving")


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
