"""``[plugins.exports]``: every setting with its unit and default."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from precipiq_core.plugin import PluginConfig


class ExportsConfig(PluginConfig):
    """Settings of exports."""

    retention_s: int = Field(7 * 86_400, ge=60, description="time that a bundle can be downloaded, seconds")
    running_max: int = Field(
        2, ge=1, le=16, description="exports that one process runs at the same time; `test` leaves one place to `live`"
    )
    running_per_organisation_max: int = Field(
        1,
        ge=1,
        description="exports of one organisation that run at the same time, on all machines; those of `test` do not "
        "count against `live`",
    )
    open_per_organisation_max: int = Field(
        20, ge=1, description="exports of one organisation and environment that wait or run; more: try again"
    )
    key_rotations_per_hour_max: int = Field(
        20, ge=1, description="new signing keys of one organisation and environment in any hour of one process"
    )
    failures_max: int = Field(
        10, ge=1, le=100, description="failures, killed servers included, after which an export is given up"
    )
    retry_s: float = Field(2.0, gt=0, description="wait after a failure, doubled with each further one, seconds")
    lease_s: float = Field(
        15.0, ge=1, description="time without a sign of life after which another process takes an export over, seconds"
    )
    poll_s: float = Field(2.0, gt=0, description="time between looks for exports that wait, seconds")
    upkeep_interval_s: float = Field(60.0, gt=0, description="time between looks for expired bundles, seconds")
    folder: Path = Field(
        Path("exports"), description="folder of bundles and of what is being written; relative to the data folder"
    )
    folder_is_shared: bool = Field(
        False, description="all machines of the deployment see the same folder (a network file system)"
    )
    batch_entries: int = Field(1000, ge=10, le=20_000, description="entries read at once")
    compression_level: int = Field(6, ge=1, le=9, description="1 is fastest, 9 is smallest")
    downloads_max: int = Field(
        50, ge=1, description="downloads that one process serves at the same time; half of them of one organisation"
    )
    signing_queue_max: int = Field(
        1000, ge=1, description="signatures and new signing keys that wait; more are told to try again"
    )
    download_session_s: float = Field(
        21_600.0,
        ge=1,
        description="time in which one key's requests for parts of a bundle are one download, with one entry, seconds",
    )
    public_key_requests_per_minute_max: int = Field(
        60, ge=1, description="requests for published signing keys from one address in any minute"
    )
