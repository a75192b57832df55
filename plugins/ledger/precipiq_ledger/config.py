"""``[plugins.ledger]``: every setting with its unit and default."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from precipiq_core.plugin import PluginConfig

BATCH_ENTRIES_MAX = 1000


class LedgerConfig(PluginConfig):
    """Settings of the ledger."""

    driver: str | None = Field(
        None, description="entry store driver, by the name it registered under; by itself that of the database"
    )
    entry_bytes_max: int = Field(256 * 1024, ge=1024, description="canonical statement and payload of one entry, bytes")
    stored_bytes_max: int | None = Field(
        None, ge=1, description="statements and payloads that one environment of an organisation may store, bytes"
    )
    batch_entries_max: int = Field(100, ge=1, le=BATCH_ENTRIES_MAX, description="decisions of one batch")
    checkpoint_interval_s: float = Field(60.0, gt=0, description="time between signed checkpoints, seconds")
    checkpoint_dir: Path = Field(
        Path("checkpoints"), description="folder of the checkpoint files; best on another disk"
    )
    checkpoint_signatures_max: int = Field(
        1000, ge=1, description="newest checkpoints whose signatures a verification checks"
    )
    checkpoint_stale_s: float = Field(
        900.0,
        gt=0,
        description="time after which an entry without a checkpoint leaves the verdict `unanchored`, seconds; five "
        "intervals where that is longer",
    )
    verify_batch_entries: int = Field(500, ge=10, le=20_000, description="entries read at once while verifying")
    verify_processes: int = Field(2, ge=1, le=64, description="processes that verify one long chain together")
    verify_inline_entries_max: int = Field(
        2000, ge=0, description="chains up to this long are verified without a process"
    )
    verify_concurrency_max: int = Field(
        2, ge=1, description="verifications at the same time, in turns; of one organisation one fewer, but one at least"
    )
    verify_queue_max: int = Field(100, ge=1, description="verifications that wait; more are told to try again")
    sweep_enabled: bool = Field(True, description="verify all chains continually while serving")
    sweep_interval_s: float = Field(30.0, gt=0, description="time between looks for new entries to verify, seconds")
    sweep_within_s: float = Field(
        86_400.0, gt=0, description="time within which every entry is verified again, seconds"
    )
    sweep_cpu_share: float = Field(0.1, gt=0, le=1, description="share of one core that the sweep may use")
    find_scan_rows_max: int = Field(50_000, ge=100, description="rows that one filtered page may look at")
    follower_delay_s: float = Field(
        0.25, ge=0, description="time that a growing chain gathers entries before its followers are told, seconds"
    )
    follower_rest_s: float = Field(
        0.75, ge=0, description="time that followers leave a chain alone which they caught up with, seconds"
    )
    follower_sweep_s: float = Field(
        5.0, gt=0, description="time between looks for chains that other processes made grow, for followers, seconds"
    )
    follower_chains_max: int = Field(4, ge=1, le=64, description="chains whose followers work at the same time")
    clock_ahead_warn_s: float = Field(
        5.0, ge=0, description="distance of a chain's newest entry ahead of the clock that the log tells, seconds"
    )
    clock_ahead_max_s: float = Field(
        300.0,
        gt=0,
        description="distance beyond which nothing is sealed, to the database's clock too, seconds",
    )
    clock_step_max_s: float = Field(
        2.0, gt=0, description="step of the clock between two looks that is no event yet, seconds"
    )
    clock_watch_interval_s: float = Field(5.0, gt=0, description="time between looks at the clock, seconds")
    watch_poll_s: float = Field(1.0, gt=0, description="time between looks for entries of other processes, seconds")
