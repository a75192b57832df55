"""``[plugins.ws_stream]``: every setting with its unit and default. Bounds count per process."""

from __future__ import annotations

from pydantic import Field

from precipiq_core.plugin import PluginConfig


class WsStreamConfig(PluginConfig):
    """Settings of the stream."""

    handshakes_per_minute_max: int = Field(
        30, ge=1, description="streams that one address may open in any minute; shared by all processes with Redis"
    )
    connections_max: int = Field(20_000, ge=1, description="open streams of a process")
    connections_per_address_max: int = Field(2000, ge=1, description="open streams of one client address")
    connections_per_organisation_max: int = Field(5000, ge=1, description="open streams of one organisation")
    queue_frames_max: int = Field(256, ge=1, description="frames that may wait for a client that does not read")
    queue_bytes_max: int = Field(
        1024 * 1024, ge=1024, description="bytes that may wait for a client that does not read"
    )
    overflow_grace_s: float = Field(
        5.0, gt=0, le=60, description="time without any progress after which a full queue evicts a client, seconds"
    )
    stall_timeout_s: float = Field(
        10.0, gt=0, le=600, description="time without any progress after which a client is evicted anyway, seconds"
    )
    recent_bytes_max: int = Field(
        4 * 1024 * 1024, ge=0, description="newest frames of a chain that somebody streams, kept in memory, bytes"
    )
    recent_bytes_total_max: int = Field(256 * 1024 * 1024, ge=0, description="the same for all chains together, bytes")
    page_entries_max: int = Field(200, ge=1, le=2000, description="entries read at once")
    page_bytes: int = Field(64 * 1024, ge=1024, description="size that pages of a replay aim at, bytes")
    replays_at_once_max: int = Field(4, ge=1, description="pages of replays that are read at the same time")
    replay_cache_bytes_max: int = Field(
        32 * 1024 * 1024, ge=0, description="pages of replays kept in memory for others at the same place, bytes"
    )
    key_check_interval_s: float = Field(
        1.0, gt=0, le=2, description="time between looks whether the keys of open streams are still good, seconds"
    )
    heartbeat_interval_s: float = Field(
        15.0, gt=0, description="time after which an idle stream tells how far it is, seconds"
    )
    client_messages_per_minute_max: int = Field(
        60, ge=0, description="messages a client may send; they are ignored, more end the stream"
    )
