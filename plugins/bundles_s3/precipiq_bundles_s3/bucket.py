"""A bucket of an S3-compatible store: its calls, and the meaning of its errors. Synchronous, for threads.

Credentials come from the sources of boto3: environment, shared files, role of the container or machine.
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
"""The size of an upload's parts; the library raises it where S3 would refuse their number."""

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
        """The key of that bundle's object."""
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}" if self.prefix else name}

    def encryption(self) -> dict[str, str]:
        """An upload's arguments for encryption at rest."""
        wanted = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.sse_kms_key_id}
        return {name: value for name, value in wanted.items() if value is not None}


class Bucket:
    """Several threads may use it. The client is made at its first use, since importing boto3 is slow."""

    def __init__(self, settings: BucketSettings) -> None:
        self._settings = settings
        self._making = threading.Lock()
        self._client: Any = None
        self._transfers: Any = None

    def begin_upload(self, name: str, source: Path) -> Any:
        """Begin to store the file, in threads and large ones in parts. The transfer has ``result`` and ``cancel``."""
        place = self._settings.object_of(name)
        encryption = self._settings.encryption()
        return self._transfers.upload(str(source), place["Bucket"], place["Key"], extra_args=encryption)

    def size(self, name: str) -> int | None:
        """Bytes of that object, None when it is absent."""
        from botocore.exceptions import ClientError

        with self.failures():
            client = self.client()
            try:
                return int(client.head_object(**self._settings.object_of(name))["ContentLength"])
            except ClientError as error:
                if _code(error) != "404":
                    raise
            client.head_bucket(Bucket=self._settings.bucket)  # a missing bucket does not show that a bundle is absent
            return None

    def open(self, name: str, start: int, end: int) -> Any:
        """An answer's body with these bytes, as a stream. Raises ``NotFound``."""
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
        """Delete the object; an absent one changes nothing."""
        with self.failures():
            self.client().delete_object(**self._settings.object_of(name))

    def close(self) -> None:
        """Wait for stopped uploads, and end their threads."""
        with self._making:
            if self._transfers is not None:
                self._transfers.shutdown()

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Translate errors of S3 and of the connection into the contract's."""
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
            # By its type: some texts hold the output of a program that provides credentials.
            raise Unavailable(f"the bundle store ({where}) cannot serve: {type(error).__name__}") from None

    def client(self) -> Any:
        """The client and its uploader, made at the first call."""
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
                    preferred_transfer_client="classic",  # boto3 chooses the other client by the packages installed
                )
                self._transfers = create_transfer_manager(client, transfers)
                self._client = client
            return self._client


class Upload:
    """An upload of one bundle, which is visible in the store once it is whole."""

    def __init__(self, bucket: Bucket, name: str, source: Path) -> None:
        self._bucket = bucket
        self._name = name
        self._source = source
        self._turn = threading.Lock()
        self._transfer: Any = None
        self._is_stopped = False

    def run(self) -> None:
        """Upload the bundle; it is durable on return. Raises ``Unavailable``, and deletes the stored parts then."""
        with self._bucket.failures():
            self._bucket.client()
            with self._turn:
                if self._is_stopped:
                    return
                self._transfer = self._bucket.begin_upload(self._name, self._source)
            self._transfer.result()

    def stop(self) -> None:
        """Stop the upload. Returns at once; :meth:`run` ends soon, and the bundle cannot appear after that."""
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
        """The next bytes, none after the last. Raises ``NotFound``, ``Unavailable``."""
        with self._turn:
            if self._is_closed:
                return b""
            if self._body is None:
                self._body = self._bucket.open(*self._wanted)
            with self._bucket.failures():
                return bytes(self._body.read(count))

    def close(self) -> None:
        """Release the connection."""
        with self._turn:
            self._is_closed = True
            if self._body is not None:
                self._body.close()


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown error"))
