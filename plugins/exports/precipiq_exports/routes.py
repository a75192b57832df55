"""The export endpoints: from the request's model to the service and back. Decides nothing itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial

from precipiq_contracts.auth import AddressLimiter
from precipiq_contracts.errors import NotFound, RateLimited, ValidationFailed
from precipiq_core.http.endpoint import REPLAYED, AnyQuery, Call, Endpoint, NoBody, NoQuery, PublicCall, Reply
from precipiq_core.http.envelope import Answer
from precipiq_core.http.settings import HttpSettings
from precipiq_exports import models
from precipiq_exports.config import ExportsConfig
from precipiq_exports.download import Download, Times
from precipiq_exports.jobs import Job
from precipiq_exports.metrics import ExportMetrics
from precipiq_exports.records import export_record
from precipiq_exports.service import ExportService
from precipiq_exports.signing_keys import SigningKeys, key_record
from precipiq_shared.cursors import decode_cursor, encode_cursor, page_limit

PUBLISHED_KEYS = "/.well-known/precipiq/{org_id}/signing-keys"

_CURSOR = "exports"
_MINUTE_S = 60


class ExportRoutes:
    """Handlers of the export endpoints."""

    def __init__(self, service: ExportService, keys: SigningKeys, metrics: ExportMetrics, http: HttpSettings) -> None:
        self._service = service
        self._keys = keys
        self._metrics = metrics
        self._http = http

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
            Endpoint("GET", "/exports", self.list_exports, "export", models.ExportList, query=models.ExportQuery),
            Endpoint("GET", "/exports/signing-keys", self.list_keys, "export", models.SigningKeyList),
            Endpoint(
                "POST", "/exports/signing-keys/rotate", self.rotate_key, "admin", models.SigningKeyOut, status=201
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

    async def list_exports(self, call: Call[NoBody, models.ExportQuery]) -> object:
        """List exports, newest first."""
        limit = page_limit(call.query.limit, self._http)
        before = call.query.cursor and _export_id(decode_cursor(_CURSOR, call.query.cursor, below=2**128))
        jobs = await self._service.page(call.principal.chain, before, limit)
        next_cursor = encode_cursor(_CURSOR, int(jobs[-1].export_id[4:], 16)) if len(jobs) == limit else None
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

        A download that begins with the first byte is recorded in the chain before it is sent; one that goes on
        (``Range``) is not recorded again.
        """
        job = await self._service.get_downloadable(call.principal.chain, call.path["id"])
        assert job.size_bytes is not None
        return Download(
            job.size_bytes,
            partial(self._read, job),
            f"precipiq-{job.chain.environment}-{job.export_id}.zip",
            str(job.sha256),
            Times(self._http.handler_timeout_s, self._http.download_stall_timeout_s),
            partial(self._record, job, call.principal.key_id),
        )

    async def list_keys(self, call: Call[NoBody, NoQuery]) -> object:
        """List the public halves of the keys that sign this chain's bundles, newest first, retired ones included."""
        keys = await self._keys.of_chain(call.principal.chain)
        return {"items": [key_record(key) for key in keys], "next_cursor": None}

    async def rotate_key(self, call: Call[NoBody, NoQuery]) -> object:
        """Replace the signing key by a new one. The old one stays published; its private half is destroyed."""
        if call.idempotency_key is not None:
            raise ValidationFailed(details={"Idempotency-Key": ["is not possible here: each call makes a key"]})
        return key_record(await self._keys.rotate(call.principal.chain, call.principal.key_id))

    async def _record(self, job: Job, actor: str, start: int) -> None:
        if start == 0:
            await self._service.record_download(job, actor)
            self._metrics.count_download()

    def _read(self, job: Job, start: int, end: int) -> AsyncGenerator[bytes, None]:
        return self._service.read(job, start, end)


def _export_id(number: int) -> str:
    return f"exp_{number:032x}"


class PublishedKeys:
    """The page of an organisation's public keys, for whoever received a bundle: no key is needed."""

    def __init__(self, keys: SigningKeys, limiter: AddressLimiter | None, config: ExportsConfig) -> None:
        self._keys = keys
        self._limiter = limiter
        self._requests_max = config.public_key_requests_per_minute_max

    def endpoint(self) -> Endpoint:
        return Endpoint(
            "GET",
            PUBLISHED_KEYS,
            self.publish_keys,
            None,
            Answer,
            query=AnyQuery,
            errors=("rate_limited", "unavailable"),
            absolute=True,
            path_parameters={"org_id": "an organisation's id, as it stands in a bundle's manifest"},
        )

    async def publish_keys(self, call: PublicCall[NoBody, AnyQuery]) -> object:
        """The public keys that sign an organisation's evidence."""
        if self._limiter is not None:
            state = await self._limiter.hit("signing-keys", call.peer.address, self._requests_max, _MINUTE_S)
            if state.retry_after_s > 0:
                raise RateLimited(retry_after_s=state.retry_after_s)
        org_id = call.path["org_id"]
        keys = await self._keys.of_organisation(org_id)
        if not keys:
            raise NotFound
        return {"org_id": org_id, "items": [key_record(key) for key in keys]}
