"""The requests and answers of the export endpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictInt, StrictStr, model_validator

from precipiq_core.http.cursors import PageQuery
from precipiq_core.http.validation import EndMoment, FieldProblem, Moment, RequestModel
from precipiq_exports.jobs import FORMATS, Format, Request, Status

_SEQ_MAX = 2**53

Seq = Annotated[StrictInt, Field(ge=0, le=_SEQ_MAX)]


class ExportIn(RequestModel):
    """What to export; everything by itself.

    ``start`` (inclusive), ``end`` (exclusive): times; a bare ``end`` date includes that UTC day.
    ``after_seq`` < seq <= ``through_seq``. ``agent_id``, ``action_type``: only decisions with these. ``formats``: of
    the lists beside the raw entries.
    """

    start: Moment | None = None
    end: EndMoment | None = None
    agent_id: Annotated[StrictStr, Field(min_length=1, max_length=255)] | None = None
    action_type: Annotated[StrictStr, Field(min_length=1, max_length=255)] | None = None
    after_seq: Seq | None = None
    through_seq: Seq | None = None
    formats: list[Format] = Field(default=list(FORMATS), min_length=1, max_length=2)

    @model_validator(mode="after")
    def _is_a_range(self) -> ExportIn:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise FieldProblem("end", "must be after start")
        if self.after_seq is not None and self.through_seq is not None and self.after_seq > self.through_seq:
            raise FieldProblem("through_seq", "must not be below after_seq")
        return self

    def as_request(self) -> Request:
        """The same for the service."""
        return Request(
            self.start,
            self.end,
            self.agent_id,
            self.action_type,
            self.after_seq,
            self.through_seq,
            tuple(name for name in FORMATS if name in self.formats),
        )


class Filters(BaseModel):
    """What was asked for; null where nothing was said."""

    start: str | None
    end: str | None
    agent_id: str | None
    action_type: str | None
    after_seq: int | None
    through_seq: int | None


class RangeOut(BaseModel):
    """The entries that the export looks at: ``after_seq`` < seq <= ``through_seq``."""

    after_seq: int
    through_seq: int


class SigningKeyReference(BaseModel):
    """The key that signed the bundle."""

    key_id: str
    fingerprint: str


class ErrorOut(BaseModel):
    """Why the export was given up."""

    code: str
    message: str


class ExportOut(BaseModel):
    """An export. ``counts``: entries in the bundle by kind; ``size``: bytes of the bundle, ``sha256`` its hash.

    ``is_valid``: whether the range held when it was verified for the bundle, null when it has no entry; ``verdict``:
    the server's word for that.
    """

    id: str
    status: Status
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None
    requested_by: str
    filters: Filters
    formats: list[Format]
    range: RangeOut | None
    progress: float
    entries: int | None
    counts: dict[str, int] | None
    is_valid: bool | None
    verdict: str | None
    size: int | None
    sha256: str | None
    signing_key: SigningKeyReference | None
    error: ErrorOut | None


class ExportList(BaseModel):
    """A page of exports, newest first."""

    items: list[ExportOut]
    next_cursor: str | None


class DownloadQuery(PageQuery):
    """Which downloads to list."""

    export_id: Annotated[str, Field(max_length=100)] | None = Field(None, description="only downloads of this export")


class DownloadOut(BaseModel):
    """A download of a bundle: the requests of one key that share the entry ``entry_seq``.

    ``asked_bytes``: of all its requests, counted before their first byte, so never less than what left. ``sent_bytes``:
    handed to the connections by requests that have ended.
    """

    id: str
    export_id: str
    key_id: str
    opened_at: str
    entry_seq: int
    requests: int
    asked_bytes: int
    sent_bytes: int


class DownloadList(BaseModel):
    """A page of downloads, newest first."""

    items: list[DownloadOut]
    next_cursor: str | None


class SigningKeyOut(BaseModel):
    """A signing key's public half. ``fingerprint``: SHA-256 of the key's DER form.

    ``announced_seq``: the entry of the chain that names it. ``retired_at``: when another key took its place.
    """

    key_id: str
    environment: Literal["live", "test"]
    algorithm: str
    fingerprint: str
    public_key_pem: str
    created_at: str
    retired_at: str | None
    announced_seq: int | None


class SigningKeyList(BaseModel):
    """Signing keys, newest first."""

    items: list[SigningKeyOut]
    next_cursor: str | None
