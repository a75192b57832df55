"""A bucket of an S3-compatible store: what is asked of it, and what its errors mean. Synchronous, for threads.

Credentials come from where boto3 finds them: environment, shared files, role of the container or machine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precipiq_contracts.errors import NotFound, Unavailable

PART_BYTES = 8 * 1024 * 1024
"""Of a bundle that is stored in parts; grows by itself where they would be more than S3 takes."""

_IDLE_CONNECTIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """See the settings of the same names in ``config``."""

    bucket: str
    prefix: str
    region: str
    endpoint_url: str | None
    path_style: bool
    sse: str | None
    sse_kms_key_id: str | None
    timeout_s: float
    attempts_max: int
    calls_max: int

    def object_of(self, name: str) -> dict[str, str]:
        """How S3 calls that bundle."""
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}" if self.prefix else name}

    def encryption(self) -> dict[str, str]:
        """What an upload says of how it is to be encrypted at rest."""
        wanted = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.sse_kms_key_id}
        return {name: value for name, value in wanted.items() if value is not None}


class Bucket:
    """May be used by several threads. Makes its client once and when first needed: importing boto3 takes its time."""

    def __init__(self, settings: BucketSettings) -> None:
        self._settings = settings
        self._making = threading.Lock()
        self._client: Any = None
        self._transfers: Any = None

    def begin_upload(self, name: str, source: Path) -> Any:
        """Threads of its own store the file, in parts when it is large. The transfer has ``result`` and ``cancel``."""
        place = self._settings.object_of(name)
        encryption = self._settings.encryption()
        return self._transfers.upload(str(source), place["Bucket"], place["Key"], extra_args=encryption)

    def size(self, name: str) -> int | None:
        """Bytes of that object, None when there is none."""
        from botocore.exceptions import ClientError

        with self.failures():
            client = self.client()
            try:
                return int(client.head_object(**self._settings.object_of(name))["ContentLength"])
            except ClientError as error:
                if _code(error) != "404":
                    raise
            client.head_bucket(Bucket=self._settings.bucket)  # without a bucket, no bundle is known to be absent
            return None

    def open(self, name: str, start: int, end: int) -> Any:
        """The body of an answer with these bytes, a stream. Raises ``NotFound``."""
        from botocore.exceptions import ClientError

        with self.failures():
            place = self._settings.object_of(name)
            try:
                return self.client().get_object(**place, Range=f"bytes={start}-{end - 1}")["Body"]
            except ClientError as error:
                if _code(error) == "NoSuchKey":
                    raise NotFound("there is no such bundle") from None
                raise

    def delete(self, name: str) -> None:
        """Nothing happens when there is none."""
        with self.failures():
            self.client().delete_object(**self._settings.object_of(name))

    def close(self) -> None:
        """Wait for the uploads that were stopped, and end their threads."""
        with self._making:
            if self._transfers is not None:
                self._transfers.shutdown()

    @contextmanager
    def failures(self) -> Iterator[None]:
        """What S3 and the way to it say, as the contract's error."""
        from botocore.exceptions import BotoCoreError, ClientError

        settings = self._settings
        try:
            yield
        except ClientError as error:
            raise Unavailable(
                f"the bundle store refused {error.operation_name} in the bucket {settings.bucket}: {_code(error)}"
            ) from error
        except (BotoCoreError, OSError) as error:
            where = settings.endpoint_url or settings.region
            # By its type: the text of some holds what a program that provides credentials said.
            raise Unavailable(f"the bundle store ({where}) cannot serve: {type(error).__name__}") from None

    def client(self) -> Any:
        """Made on the first call, and what uploads with it."""
        with self._making:
            if self._client is None:
                from boto3.s3.transfer import TransferConfig, create_transfer_manager
                from boto3.session import Session
                from botocore.config import Config

                settings = self._settings
                config = Config(
                    connect_timeout=settings.timeout_s,
                    read_timeout=settings.timeout_s,
                    retries={"mode": "standard", "total_max_attempts": settings.attempts_max},
                    max_pool_connections=_IDLE_CONNECTIONS_MAX,
                    s3={"addressing_style": "path" if settings.path_style else "auto"},
                )
                client = Session().client(
                    "s3", region_name=settings.region, endpoint_url=settings.endpoint_url, config=config
                )
                transfers = TransferConfig(
                    multipart_threshold=PART_BYTES,
                    multipart_chunksize=PART_BYTES,
                    max_concurrency=settings.calls_max,
                    preferred_transfer_client="classic",  # the other one is chosen by what happens to be installed
                )
                self._transfers = create_transfer_manager(client, transfers)
                self._client = client
            return self._client


class Upload:
    """One bundle on its way to the store, where it is visible once all of it is there."""

    def __init__(self, bucket: Bucket, name: str, source: Path) -> None:
        self._bucket = bucket
        self._name = name
        self._source = source
        self._turn = threading.Lock()
        self._transfer: Any = None
        self._is_stopped = False

    def run(self) -> None:
        """Until it is there durably. Raises ``Unavailable``; the parts that were stored are deleted then."""
        with self._bucket.failures():
            self._bucket.client()
            with self._turn:
                if self._is_stopped:
                    return
                self._transfer = self._bucket.begin_upload(self._name, self._source)
            self._transfer.result()

    def stop(self) -> None:
        """Returns at once; :meth:`run` ends soon, and nothing of the bundle can appear after that."""
        with self._turn:
            self._is_stopped = True
            if self._transfer is not None:
                self._transfer.cancel()


class Download:
    """A range that threads open, read and close, one at a time: a cancelled read may still run when it is closed."""

    def __init__(self, bucket: Bucket, name: str, start: int, end: int) -> None:
        self._bucket = bucket
        self._wanted = (name, start, end)
        self._turn = threading.Lock()
        self._body: Any = None
        self._is_closed = False

    def read(self, count: int) -> bytes:
        """The next bytes, none behind the last one. Raises ``NotFound``, ``Unavailable``."""
        with self._turn:
            if self._is_closed:
                return b""
            if self._body is None:
                self._body = self._bucket.open(*self._wanted)
            with self._bucket.failures():
                return bytes(self._body.read(count))

    def close(self) -> None:
        """Let go of the connection."""
        with self._turn:
            self._is_closed = True
            if self._body is not None:
                self._body.close()


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown error"))
