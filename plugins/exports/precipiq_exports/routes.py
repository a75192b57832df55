"""The export endpoints: from the request's model to the service and back. Decides nothing itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial

from pydantic import ConfigDict

from precipiq_contracts.auth import AddressLimiter
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import NotFound, RateLimited, ValidationFailed
from precipiq_core.http.cursors import PageQuery, decode_cursor, encode_cursor, page_limit, page_of
from precipiq_core.http.endpoint import REPLAYED, Call, Endpoint, NoBody, NoQuery, PublicCall, Reply
from precipiq_core.http.envelope import Answer
from precipiq_core.http.settings import HttpSettings
from precipiq_exports import models
from precipiq_exports.config import ExportsConfig
from precipiq_exports.download import Download, Times
from precipiq_exports.downloads import Downloads
from precipiq_exports.jobs import Job
from precipiq_exports.records import download_record, export_record
from precipiq_exports.sending import Sending
from precipiq_exports.service import ExportService
from precipiq_exports.signing_keys import SigningKeys, key_record

PUBLISHED_KEYS = "/.well-known/precipiq/{org_id}/signing-keys"

_CURSOR = "exports"
_DOWNLOAD_CURSOR = "export_downloads"
_MINUTE_S = 60


class ExportRoutes:
    """Handlers of the export endpoints."""

    def __init__(
        self, service: ExportService, downloads: Downloads, keys: SigningKeys, http: HttpSettings, clock: Clock
    ) -> None:
        self._service = service
        self._downloads = downloads
        self._keys = keys
        self._http = http
        self._clock = clock

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them that need a key."""
        by_id = {"id": "an export's id"}
        return [
            Endpoint(
                "POST",
                "/exports",
                self.create_export,
                "export",
                models.ExportOut,
                body=models.ExportIn,
                status=202,
                errors=("too_many_exports",),
            ),
            Endpoint("GET", "/exports", self.list_exports, "export", models.ExportList, query=PageQuery),
            Endpoint("GET", "/exports/signing-keys", self.list_keys, "export", models.SigningKeyList, query=PageQuery),
            Endpoint(
                "POST",
                "/exports/signing-keys/rotate",
                self.rotate_key,
                "admin",
                models.SigningKeyOut,
                status=201,
                errors=("key_unanchored",),
            ),
            Endpoint(
                "GET",
                "/exports/downloads",
                self.list_downloads,
                "admin",
                models.DownloadList,
                query=models.DownloadQuery,
            ),
            Endpoint("GET", "/exports/{id}", self.get_export, "export", models.ExportOut, path_parameters=by_id),
            Endpoint("DELETE", "/exports/{id}", self.delete_export, "export", models.ExportOut, path_parameters=by_id),
            Endpoint(
                "GET",
                "/exports/{id}/download",
                self.download_export,
                "export",
                Download,
                errors=("export_not_ready", "export_expired"),
                path_parameters=by_id,
            ),
        ]

    async def create_export(self, call: Call[models.ExportIn, NoQuery]) -> Reply:
        """Ask for an evidence bundle.

        It is made in the background: look at ``status``, or follow the stream until ``export.completed``. Without
        ``through_seq`` it holds everything that was acknowledged before the request.
        """
        principal = call.principal
        request = call.body.as_request()
        job, is_new = await self._service.request(principal.chain, request, principal.key_id, call.idempotency_key)
        return Reply(export_record(job), headers=() if is_new else (REPLAYED,))

    async def list_exports(self, call: Call[NoBody, PageQuery]) -> object:
        """List exports, newest first."""
        limit = page_limit(call.query.limit, self._http)
        before = _id_in(_CURSOR, "exp", call.query)
        jobs = await self._service.page(call.principal.chain, before, limit)
        next_cursor = _cursor_after(_CURSOR, jobs[-1].export_id) if len(jobs) == limit else None
        return {"items": [export_record(job) for job in jobs], "next_cursor": next_cursor}

    async def get_export(self, call: Call[NoBody, NoQuery]) -> object:
        """Get an export: how far it is, and what came of it."""
        return export_record(await self._service.get(call.principal.chain, call.path["id"]))

    async def delete_export(self, call: Call[NoBody, NoQuery]) -> object:
        """Cancel an export that has not ended, or delete the bundle of one that has.

        The chain keeps what happened. Repeating it changes nothing.
        """
        principal = call.principal
        return export_record(await self._service.give_up(principal.chain, call.path["id"], principal.key_id))

    async def download_export(self, call: Call[NoBody, NoQuery]) -> Download:
        """Download the bundle, a ZIP.

        A download is an entry of the chain before its first byte is sent. A request for the whole bundle is another
        download; one for a part (``Range``) goes on with the key's latest one for some hours, without a further entry.
        """
        job = await self._service.get_downloadable(call.principal.chain, call.path["id"])
        assert job.size_bytes is not None
        sending = Sending(self._downloads, job, call.principal.key_id, call.peer, self._clock, self._http)
        return Download(
            job.size_bytes,
            partial(self._read, job),
            f"precipiq-{job.chain.environment}-{job.export_id}.zip",
            str(job.sha256),
            Times(self._http.handler_timeout_s, self._http.download_stall_timeout_s),
            sending.begin,
            sending.end,
            sending.may_go_on,
        )

    async def list_downloads(self, call: Call[NoBody, models.DownloadQuery]) -> object:
        """List who downloaded bundles, newest first: each download's entry, requests and bytes."""
        limit = page_limit(call.query.limit, self._http)
        before = _id_in(_DOWNLOAD_CURSOR, "dl", call.query)
        found = await self._downloads.page(call.principal.chain, call.query.export_id, before, limit)
        next_cursor = _cursor_after(_DOWNLOAD_CURSOR, found[-1].download_id) if len(found) == limit else None
        return {"items": [download_record(download) for download in found], "next_cursor": next_cursor}

    async def list_keys(self, call: Call[NoBody, PageQuery]) -> object:
        """List the public halves of the keys that sign this chain's bundles, newest first, retired ones included.

        Without `limit` all of them.
        """
        keys, next_cursor = page_of(
            "signing_keys", await self._keys.of_chain(call.principal.chain), call.query, self._http
        )
        return {"items": [key_record(key) for key in keys], "next_cursor": next_cursor}

    async def rotate_key(self, call: Call[NoBody, NoQuery]) -> object:
        """Replace the signing key by a new one. The old one stays published; its private half is destroyed."""
        if call.idempotency_key is not None:
            raise ValidationFailed(details={"Idempotency-Key": ["is not possible here: each call makes a key"]})
        return key_record(await self._keys.rotate(call.principal.chain, call.principal.key_id))

    def _read(self, job: Job, start: int, end: int) -> AsyncGenerator[bytes, None]:
        return self._service.read(job, start, end)


def _id_in(name: str, prefix: str, query: PageQuery) -> str | None:
    """The id in the cursor of a list of that name, whose ids are a prefix and a number."""
    return query.cursor and f"{prefix}_{decode_cursor(name, query.cursor, below=2**128):032x}"


def _cursor_after(name: str, last_id: str) -> str:
    return encode_cursor(name, int(last_id.rpartition("_")[2], 16))


class PublishedQuery(PageQuery):
    """Which page of the published keys. Other parameters are ignored: some programs append them to links."""

    model_config = ConfigDict(extra="ignore")


class PublishedKeys:
    """The page of an organisation's public keys, for receivers of a bundle: it needs no key."""

    def __init__(
        self, keys: SigningKeys, limiter: AddressLimiter | None, config: ExportsConfig, http: HttpSettings
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._http = http
        self._requests_max = config.public_key_requests_per_minute_max

    def endpoint(self) -> Endpoint:
        return Endpoint(
            "GET",
            PUBLISHED_KEYS,
            self.publish_keys,
            None,
            Answer,
            query=PublishedQuery,
            errors=("rate_limited", "unavailable"),
            absolute=True,
            path_parameters={"org_id": "an organisation's id, as it stands in a bundle's manifest"},
        )

    async def publish_keys(self, call: PublicCall[NoBody, PublishedQuery]) -> object:
        """The public keys that sign an organisation's evidence, newest first, retired ones included.

        Without `limit` all of them.
        """
        if self._limiter is not None:
            state = await self._limiter.hit("signing-keys", call.peer.address, self._requests_max, _MINUTE_S)
            if state.retry_after_s > 0:
                raise RateLimited(retry_after_s=state.retry_after_s)
        org_id = call.path["org_id"]
        keys = await self._keys.of_organisation(org_id)
        if not keys:
            raise NotFound
        page, next_cursor = page_of("published_keys", keys, call.query, self._http)
        return {"org_id": org_id, "items": [key_record(key) for key in page], "next_cursor": next_cursor}
