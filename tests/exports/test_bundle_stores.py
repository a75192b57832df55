"""One set of tests for every bundle store: a local folder, and S3 as moto's server has it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from precipiq_bundles_s3.bucket import PART_BYTES, Bucket, BucketSettings, Download, Upload
from precipiq_bundles_s3.service import S3Bundles
from precipiq_contracts.bundle_store import BundleStore
from precipiq_contracts.errors import InternalError, NotFound, Unavailable
from precipiq_exports.local_bundles import BundleFile, LocalBundles
from precipiq_testkit.aws import REGION, AwsServer, aws

__all__ = ["aws"]

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.system]

NAME = "exp_0123.1.zip"
LARGE_BYTES = 20 * 1024 * 1024
PIECE_BYTES_MAX = 1024 * 1024
MEMORY_BYTES_MAX = 8 * 1024 * 1024
_SHARED_MEMORY = Path("/dev/shm")
_buckets = count()

NO_NAMES = ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-x", "a b", "a\0", "a\n", "é", "x" * 201]


@pytest.fixture(scope="module")
def bucket_settings(aws: AwsServer) -> BucketSettings:
    """A fresh bucket, and how to reach it."""
    bucket = f"bundles-{next(_buckets)}"
    aws.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return BucketSettings(
        bucket=bucket,
        prefix="precipiq/bundles",
        region=REGION,
        endpoint_url=aws.url,
        path_style=True,
        sse=None,
        sse_kms_key_id=None,
        timeout_s=20.0,
        attempts_max=1,
        calls_max=4,
    )


@pytest.fixture(scope="module")
def s3(bucket_settings: BucketSettings) -> Iterator[S3Bundles]:
    """One for all tests: making a client takes its time."""
    store = S3Bundles(bucket_settings)
    yield store
    asyncio.run(store.close())


@pytest.fixture(params=["local", "s3"])
async def store(request: pytest.FixtureRequest, s3: S3Bundles, tmp_path: Path) -> AsyncIterator[BundleStore]:
    if request.param == "local":
        yield LocalBundles(tmp_path / "exports" / "bundles")
        return
    yield s3
    await s3.delete(NAME)


def source(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "source.zip"
    path.write_bytes(content)
    return path


@cache
def pattern(size_bytes: int) -> bytes:
    """No two blocks alike, so that none can be lost, doubled or misplaced unseen."""
    return b"".join(sha256(b"%d" % number).digest() for number in range(size_bytes // 32))


async def read(store: BundleStore, start: int, end: int) -> bytes:
    async with aclosing(store.read(NAME, start, end)) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_what_is_put_can_be_read_whole_and_by_ranges(store: BundleStore, tmp_path: Path) -> None:
    content = pattern(700_000)
    await store.put(NAME, source(tmp_path, content))
    size = len(content)
    assert await store.size(NAME) == size
    for start, end in [(0, size), (0, 1), (1, 5), (262_143, 262_145), (600_000, size), (size - 1, size), (7, 7)]:
        assert await read(store, start, end) == content[start:end]


async def test_putting_a_name_again_replaces_it(store: BundleStore, tmp_path: Path) -> None:
    await store.put(NAME, source(tmp_path, b"first, and longer"))
    await store.put(NAME, source(tmp_path, b"second"))
    assert await store.size(NAME) == 6
    assert await read(store, 0, 6) == b"second"


async def test_what_is_deleted_is_gone_and_deleting_it_again_does_nothing(store: BundleStore, tmp_path: Path) -> None:
    await store.delete(NAME)
    await store.put(NAME, source(tmp_path, b"content"))
    await store.delete(NAME)
    assert await store.size(NAME) is None
    await store.delete(NAME)


async def test_a_bundle_that_is_not_there_has_no_size_and_cannot_be_read(store: BundleStore) -> None:
    assert await store.size(NAME) is None
    with pytest.raises(NotFound):
        await read(store, 0, 1)


async def test_fewer_bytes_never_pass_for_all(store: BundleStore, tmp_path: Path) -> None:
    await store.put(NAME, source(tmp_path, b"content"))
    for start, end in [(0, 8), (7, 8), (100, 200)]:
        with pytest.raises(Unavailable):
            await read(store, start, end)


@pytest.mark.parametrize("name", NO_NAMES)
async def test_what_is_no_name_reaches_no_file_or_object(store: BundleStore, tmp_path: Path, name: str) -> None:
    path = source(tmp_path, b"content")
    calls = [store.put(name, path), store.size(name), store.delete(name), anext(store.read(name, 0, 1))]
    for call in calls:
        with pytest.raises(InternalError):
            await call
    assert path.read_bytes() == b"content"


async def test_a_large_bundle_is_stored_and_read_in_bounded_memory(store: BundleStore, tmp_path: Path) -> None:
    content = pattern(LARGE_BYTES)
    path, digest, whole = source(tmp_path, content), sha256(content).digest(), sha256()
    await store.size(NAME)  # what is loaded once does not count
    tracemalloc.start()
    try:
        await store.put(NAME, path)
        async with aclosing(store.read(NAME, 0, LARGE_BYTES)) as pieces:
            async for piece in pieces:
                assert len(piece) <= PIECE_BYTES_MAX
                whole.update(piece)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert whole.digest() == digest
    assert peak_bytes < MEMORY_BYTES_MAX


async def test_a_read_that_is_left_early_lets_go_of_everything(store: BundleStore, tmp_path: Path) -> None:
    await store.put(NAME, source(tmp_path, pattern(LARGE_BYTES)))
    open_before = _descriptors()
    for _ in range(10):
        pieces = store.read(NAME, 0, LARGE_BYTES)
        await anext(pieces)
        await pieces.aclose()
    assert len(_descriptors() - open_before) <= 1  # a connection for the next call may stay


@pytest.mark.parametrize("pieces_before", [0, 1])
async def test_a_read_that_is_cancelled_lets_go_of_everything(
    store: BundleStore, tmp_path: Path, pieces_before: int
) -> None:
    await store.put(NAME, source(tmp_path, pattern(LARGE_BYTES)))
    open_before = _descriptors()

    async def some() -> None:
        async with aclosing(store.read(NAME, 0, LARGE_BYTES)) as pieces:
            for _ in range(pieces_before):
                await anext(pieces)
            reading.set()
            await anext(pieces)
            await asyncio.sleep(60)

    for _ in range(10):
        reading = asyncio.Event()
        task = asyncio.create_task(some())
        await reading.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(_descriptors() - open_before) <= 1


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_what_a_read_holds_open_is_closed_by_closing_and_not_opened_by_a_read_that_comes_late(
    kind: str, s3: S3Bundles, bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    await s3.put(NAME, source(tmp_path, pattern(LARGE_BYTES)))

    def new() -> BundleFile | Download:
        return BundleFile(tmp_path / "source.zip", 0) if kind == "local" else Download(bucket, NAME, 0, LARGE_BYTES)

    bucket = Bucket(bucket_settings)
    late, used = new(), new()
    late.close()
    open_before = _descriptors()
    assert late.read(1) == b""
    assert _descriptors() == open_before
    assert used.read(1) == pattern(LARGE_BYTES)[:1]
    assert _descriptors() > open_before
    used.close()
    assert _descriptors() == open_before
    bucket.close()


async def test_a_put_that_is_cancelled_leaves_nothing_that_comes_later(store: BundleStore, tmp_path: Path) -> None:
    path = source(tmp_path, pattern(LARGE_BYTES))
    task = asyncio.create_task(store.put(NAME, path))
    for _ in range(3):  # it has begun, and cannot have ended: its thread could not tell the loop yet
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    size = await store.size(NAME)
    assert size in (None, LARGE_BYTES)
    await asyncio.sleep(0.3)
    assert await store.size(NAME) == size


async def test_a_store_says_whether_other_machines_reach_it(s3: S3Bundles, tmp_path: Path) -> None:
    assert s3.is_shared
    assert not LocalBundles(tmp_path).is_shared
    assert LocalBundles(tmp_path, is_shared=True).is_shared


# The local folder


async def test_the_folder_and_its_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "exports" / "bundles"
    path = source(tmp_path, b"content")
    path.chmod(0o644)
    await LocalBundles(folder).put(NAME, path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    assert not path.exists()


async def test_trouble_with_the_folder_is_unavailable_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = LocalBundles(tmp_path / "file" / "bundles")
    for call in [store.put(NAME, source(tmp_path, b"content")), store.size(NAME), anext(store.read(NAME, 0, 1))]:
        with pytest.raises(Unavailable, match="Not a directory"):
            await call


async def test_a_bundle_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, move = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noted_move(self: Path, target: Path) -> None:
        steps.append("name")
        move(self, target)

    store = LocalBundles(tmp_path)
    path = source(tmp_path, b"content")
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_move)
    await store.put(NAME, path)
    assert steps == ["file", "name", "folder"]


@pytest.fixture
def far_source(tmp_path: Path) -> Iterator[Path]:
    """A file on another file system than the bundles."""
    if not _SHARED_MEMORY.is_dir() or _SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system that anybody may write to")
    path = _SHARED_MEMORY / f"precipiq-{os.getpid()}.zip"
    path.write_bytes(pattern(4 * 1024 * 1024))
    yield path
    path.unlink(missing_ok=True)


async def test_a_file_of_another_file_system_is_copied(tmp_path: Path, far_source: Path) -> None:
    store = LocalBundles(tmp_path / "bundles")
    content = far_source.read_bytes()
    await store.put(NAME, far_source)
    assert await read(store, 0, len(content)) == content
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "bundles").iterdir()] == [
        (NAME, 0o600)
    ]


_PUT_LOCALLY = """
import asyncio, resource, signal, sys
from pathlib import Path
from precipiq_contracts.errors import Unavailable
from precipiq_exports.local_bundles import BundleFile, LocalBundles
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL if sys.argv[3] == "killed" else signal.SIG_IGN)
try:
    asyncio.run(LocalBundles(Path(sys.argv[1])).put("exp_0123.1.zip", Path(sys.argv[2])))
except Unavailable as error:
    print(error.message)
"""


@pytest.mark.parametrize("way", ["killed", "full"])
async def test_a_copy_that_ends_half_way_shows_nothing_and_is_tidied_by_deleting(
    tmp_path: Path, far_source: Path, way: str
) -> None:
    """A limit on the size of files: the kernel kills the process there, or says that there is no room."""
    folder = tmp_path / "bundles"
    command = [sys.executable, "-c", _PUT_LOCALLY, str(folder), str(far_source), way]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    store = LocalBundles(folder)
    assert await store.size(NAME) is None
    with pytest.raises(NotFound):
        await read(store, 0, 1)
    if way == "killed":
        assert ended.returncode == -signal.SIGXFSZ
        assert len(list(folder.iterdir())) == 1
    else:
        assert "File too large" in ended.stdout
        assert list(folder.iterdir()) == []
    assert far_source.stat().st_size == 4 * 1024 * 1024
    await store.delete(NAME)
    assert list(folder.iterdir()) == []


# S3


async def test_bundles_lie_under_the_prefix_in_parts_and_encrypted_as_told(
    aws: AwsServer, bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    store = S3Bundles(replace(bucket_settings, prefix="a/b", sse="AES256"))
    await store.put(NAME, source(tmp_path, pattern(LARGE_BYTES)))
    await store.close()
    found = aws.client("s3").head_object(Bucket=bucket_settings.bucket, Key=f"a/b/{NAME}")
    assert found["ServerSideEncryption"] == "AES256"
    assert found["ETag"].strip('"').endswith(f"-{-(-LARGE_BYTES // PART_BYTES)}")


async def test_a_missing_bucket_is_unavailable_and_not_a_missing_bundle(
    bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    store = S3Bundles(replace(bucket_settings, bucket="nobody-made-this"))
    path = source(tmp_path, b"content")
    for call in [store.put(NAME, path), store.size(NAME), anext(store.read(NAME, 0, 1)), store.delete(NAME)]:
        with pytest.raises(Unavailable, match="nobody-made-this"):
            await call
    await store.close()


async def test_a_store_out_of_reach_is_unavailable_and_says_where(
    bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    with closing(socket.socket()) as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = S3Bundles(replace(bucket_settings, endpoint_url=url))
        path = source(tmp_path, b"content")
        for call in [store.put(NAME, path), store.size(NAME), anext(store.read(NAME, 0, 1)), store.delete(NAME)]:
            with pytest.raises(Unavailable, match=url):
                await call
        await store.close()


async def test_without_credentials_the_store_is_unavailable_and_says_so(
    bucket_settings: BucketSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store = S3Bundles(bucket_settings)
    with pytest.raises(Unavailable, match="NoCredentials"):
        await store.size(NAME)
    await store.close()


async def test_an_upload_that_fails_leaves_no_parts_behind(
    aws: AwsServer, bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    """The file is cut short after its first parts were read."""
    store = S3Bundles(replace(bucket_settings, calls_max=1, prefix="failing", timeout_s=3.0))
    path = tmp_path / "source.zip"
    with path.open("wb") as stream:
        stream.truncate(12 * PART_BYTES)
    storing = asyncio.create_task(store.put(NAME, path))
    await _begun(aws, bucket_settings, "failing")
    path.write_bytes(b"")
    with pytest.raises(Unavailable):
        await storing
    assert await store.size(NAME) is None
    assert _uploads(aws, bucket_settings, "failing") == []
    await store.close()


async def test_a_put_that_is_cancelled_half_way_leaves_no_parts_behind(
    aws: AwsServer, bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    store = S3Bundles(replace(bucket_settings, calls_max=1, prefix="cancelled"))
    path = tmp_path / "source.zip"
    with path.open("wb") as stream:
        stream.truncate(12 * PART_BYTES)
    storing = asyncio.create_task(store.put(NAME, path))
    await _begun(aws, bucket_settings, "cancelled")
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert await store.size(NAME) is None
    assert _uploads(aws, bucket_settings, "cancelled") == []
    await store.close()


async def test_an_upload_that_was_stopped_does_not_begin(bucket_settings: BucketSettings, tmp_path: Path) -> None:
    bucket = Bucket(replace(bucket_settings, prefix="stopped"))
    upload = Upload(bucket, NAME, source(tmp_path, b"content"))
    upload.stop()
    upload.run()
    assert bucket.size(NAME) is None
    bucket.close()


_PUT_IN_S3 = """
import asyncio, sys
from pathlib import Path
from precipiq_bundles_s3.bucket import BucketSettings
from precipiq_bundles_s3.service import S3Bundles
bucket, region, url, path = sys.argv[1:]
settings = BucketSettings(bucket, "killed", region, url, True, None, None, 20.0, 1, 1)
asyncio.run(S3Bundles(settings).put("exp_0123.1.zip", Path(path)))
"""


async def test_an_upload_that_is_killed_half_way_shows_nothing(
    aws: AwsServer, bucket_settings: BucketSettings, tmp_path: Path
) -> None:
    path = tmp_path / "source.zip"
    with path.open("wb") as stream:
        stream.truncate(12 * PART_BYTES)
    arguments = [bucket_settings.bucket, REGION, aws.url, str(path)]
    with subprocess.Popen([sys.executable, "-c", _PUT_IN_S3, *arguments]) as process:
        try:
            await _begun(aws, bucket_settings, "killed")
        finally:
            process.kill()
    store = S3Bundles(replace(bucket_settings, prefix="killed"))
    assert await store.size(NAME) is None
    with pytest.raises(NotFound):
        await read(store, 0, 1)
    [left] = _uploads(aws, bucket_settings, "killed")  # for the bucket's lifecycle rule: the client is dead
    aws.client("s3").abort_multipart_upload(Bucket=bucket_settings.bucket, Key=left["Key"], UploadId=left["UploadId"])
    await store.put(NAME, source(tmp_path, b"content"))
    assert await read(store, 0, 7) == b"content"
    await store.close()


def _descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("this system does not list a process's descriptors")
    return set(os.listdir(folder))


def _uploads(aws: AwsServer, settings: BucketSettings, prefix: str) -> list[dict[str, str]]:
    listed = aws.client("s3").list_multipart_uploads(Bucket=settings.bucket)
    return [item for item in listed.get("Uploads", []) if item["Key"].startswith(f"{prefix}/")]


async def _begun(aws: AwsServer, settings: BucketSettings, prefix: str) -> None:
    """Wait until the first part of an upload is there."""
    client = aws.client("s3")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for upload in _uploads(aws, settings, prefix):
            found = client.list_parts(Bucket=settings.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            if found.get("Parts"):
                return
        await asyncio.sleep(0.01)
    raise AssertionError("no upload began")
