"""The vault over AWS KMS, against moto's server, and against made-up answers where moto has no such rule.

moto binds ciphertexts to the encryption context (AES-GCM) and to the key that ``Decrypt`` names, as KMS does. It does
not refuse disabled keys, ignores ``SourceKeyId``, knows no permissions unless told, and says ``AccessDeniedException``
where KMS says ``IncorrectKeyException``: what we ask then, and what we make of KMS's answer, is tested on its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from precipiq_contracts.errors import DeploymentError, InternalError, Unavailable, VaultRefused
from precipiq_contracts.vault import SECRET_BYTES_MAX, KeyVault
from precipiq_core.app import Application
from precipiq_core.boot import Assembly, assemble
from precipiq_core.deployment import parse_deployment
from precipiq_core.running import run_lifespans
from precipiq_testkit.aws import REGION, AwsServer, aws
from precipiq_testkit.clock import ManualClock, SeededRandomness
from precipiq_vault_aws.kms import KmsAccess, KmsSettings
from precipiq_vault_aws.service import AwsVault
from precipiq_work.child_process import ChildProcess

__all__ = ["aws"]

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SECRET = b"not to be seen anywhere \x00\xff"
CONTEXT = {"purpose": "signing key", "org_id": "org_1", "key_id": "key_1"}
_aliases = count()


@pytest.fixture
def settings(aws: AwsServer) -> KmsSettings:
    """A new key, behind a new alias."""
    alias = f"alias/precipiq-{next(_aliases)}"
    aws.client("kms").create_alias(AliasName=alias, TargetKeyId=new_key(aws))
    return KmsSettings(alias, (), REGION, aws.url, timeout_s=10.0, attempts_max=1, calls_max=2)


@pytest.fixture
async def vault(settings: KmsSettings) -> AsyncIterator[AwsVault]:
    vault = AwsVault(settings)
    yield vault
    await vault.close()


def new_key(aws: AwsServer) -> str:
    """Its ARN."""
    return str(aws.client("kms").create_key()["KeyMetadata"]["Arn"])


def key_behind(aws: AwsServer, settings: KmsSettings) -> str:
    return str(aws.client("kms").describe_key(KeyId=settings.key_id)["KeyMetadata"]["Arn"])


@pytest.mark.parametrize("secret", [b"x", SECRET, bytes(SECRET_BYTES_MAX)])
async def test_what_is_wrapped_is_unwrapped_for_the_same_context(vault: AwsVault, secret: bytes) -> None:
    wrapped = await vault.wrap(secret, CONTEXT)
    assert len(secret) == 1 or secret not in wrapped
    assert await vault.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == secret


@pytest.mark.parametrize(
    "context",
    [{**CONTEXT, "org_id": "org_2"}, {"purpose": "signing key"}, {**CONTEXT, "more": "x"}, {"org_id": "org_1"}],
)
async def test_for_another_context_it_is_refused(vault: AwsVault, context: dict[str, str]) -> None:
    wrapped = await vault.wrap(SECRET, CONTEXT)
    for call in [vault.unwrap(wrapped, context), vault.rewrap(wrapped, context)]:
        with pytest.raises(VaultRefused):
            await call


async def test_an_altered_one_is_refused_wherever_it_was_altered(vault: AwsVault) -> None:
    wrapped = await vault.wrap(SECRET, CONTEXT)
    tag_end = 2 + wrapped[1]
    # moto's ciphertext begins with the id of its key; a key that is missing is moto's only complaint then.
    names_a_key = {1, *range(tag_end, tag_end + 36)}
    for place in range(len(wrapped)):
        altered = bytearray(wrapped)
        altered[place] ^= 1
        with pytest.raises(Unavailable if place in names_a_key else VaultRefused):
            await vault.unwrap(bytes(altered), CONTEXT)
    foreign = [b"", wrapped[:1], wrapped[:tag_end], b"\x02" + wrapped[1:], wrapped[:2] + b"\xff" + wrapped[3:]]
    for other in [*foreign, wrapped[:-1], wrapped + b"x"]:
        with pytest.raises(VaultRefused):
            await vault.unwrap(other, CONTEXT)
    assert [vault.is_current(other) for other in foreign] == [False] * len(foreign)


async def test_one_that_names_another_key_than_it_is_under_is_refused(aws: AwsServer, settings: KmsSettings) -> None:
    other = new_key(aws)
    vault = AwsVault(replace(settings, previous_key_ids=(other,)))
    wrapped = await vault.wrap(SECRET, CONTEXT)
    own_id, other_id = (arn.rpartition("/")[2].encode() for arn in (key_behind(aws, settings), other))
    blob = wrapped[2 + len(own_id) :]
    lying = wrapped[:2] + other_id + blob
    for call in [vault.unwrap(lying, CONTEXT), vault.rewrap(lying, CONTEXT)]:
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(VaultRefused, match="names"):
        await AwsVault(settings).unwrap(lying, CONTEXT)


@pytest.mark.parametrize("secret", [b"", bytes(SECRET_BYTES_MAX + 1)])
async def test_a_secret_has_its_bounds(vault: AwsVault, secret: bytes) -> None:
    with pytest.raises(InternalError, match="4096"):
        await vault.wrap(secret, CONTEXT)


@pytest.mark.parametrize("context", [{}, {"purpose": ""}, {"": "x"}])
async def test_a_secret_is_bound_to_something(vault: AwsVault, context: dict[str, str]) -> None:
    with pytest.raises(InternalError):
        await vault.wrap(SECRET, context)


async def test_when_the_alias_changes_its_key_everything_is_wrapped_anew(aws: AwsServer, settings: KmsSettings) -> None:
    vault = AwsVault(settings)
    old = await vault.wrap(SECRET, CONTEXT)
    assert vault.is_current(old)
    old_arn, new_arn = key_behind(aws, settings), new_key(aws)
    aws.client("kms").update_alias(AliasName=settings.key_id, TargetKeyId=new_arn)

    vault = AwsVault(replace(settings, previous_key_ids=(old_arn,)))
    assert new_arn in await vault.check()
    assert not vault.is_current(old)
    assert await vault.unwrap(old, CONTEXT) == SECRET
    new = await vault.rewrap(old, CONTEXT)
    assert vault.is_current(new)
    assert await vault.unwrap(new, CONTEXT) == SECRET

    vault = AwsVault(settings)
    assert await vault.unwrap(new, CONTEXT) == SECRET
    with pytest.raises(Unavailable):
        await vault.unwrap(old, CONTEXT)


async def test_a_running_vault_sees_the_change_when_it_wraps(aws: AwsServer, settings: KmsSettings) -> None:
    vault = AwsVault(settings)
    old = await vault.wrap(SECRET, CONTEXT)
    aws.client("kms").update_alias(AliasName=settings.key_id, TargetKeyId=new_key(aws))
    new = await vault.wrap(SECRET, CONTEXT)
    assert (vault.is_current(old), vault.is_current(new)) == (False, True)


async def test_a_key_named_by_its_id_or_arn_does_as_well(aws: AwsServer, settings: KmsSettings) -> None:
    arn = key_behind(aws, settings)
    wrapped = await AwsVault(settings).wrap(SECRET, CONTEXT)
    for key_id in [arn, arn.rpartition("/")[2]]:
        vault = AwsVault(replace(settings, key_id=key_id))
        assert arn in await vault.check()
        assert vault.is_current(wrapped)
        assert await vault.unwrap(wrapped, CONTEXT) == SECRET


async def test_a_missing_key_is_named_and_only_unavailable(settings: KmsSettings) -> None:
    vault = AwsVault(replace(settings, key_id="alias/nobody-made-this"))
    with pytest.raises(Unavailable, match=r"alias/nobody-made-this.*NotFoundException") as caught:
        await vault.check()
    assert not isinstance(caught.value, VaultRefused)


async def test_kms_out_of_reach_is_unavailable_and_says_where(settings: KmsSettings) -> None:
    with closing(socket.socket()) as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        vault = AwsVault(replace(settings, endpoint_url=url))
        with pytest.raises(Unavailable, match=f"{url}.*EndpointConnectionError"):
            await vault.wrap(SECRET, CONTEXT)


async def test_without_credentials_the_vault_is_unavailable_and_says_so(
    settings: KmsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Unavailable, match="Credentials"):
        await AwsVault(settings).check()


class StandIn(HTTPServer):
    """Answers whatever it is asked with one error of KMS, or with ``answer``, and notes what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.status = 400
        self.answer: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []


class _Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, StandIn)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.headers["X-Amz-Target"], body))
        text = json.dumps(self.server.answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def stand_in(aws: AwsServer) -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


WRAPPED = b"\x01\x05key-1ciphertext"
NAMES_KEY_2 = b"\x01\x05key-2ciphertext"


def asking(stand_in: StandIn, **settings: Any) -> KmsAccess:
    url = f"http://127.0.0.1:{stand_in.server_port}"
    return KmsAccess(replace(KmsSettings("alias/a", (), REGION, url, 10.0, 1, 1), **settings))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InvalidCiphertextException", VaultRefused),
        ("IncorrectKeyException", VaultRefused),
        ("DisabledException", Unavailable),
        ("KMSInvalidStateException", Unavailable),
        ("AccessDeniedException", Unavailable),
        ("ThrottlingException", Unavailable),
        ("KMSInternalException", Unavailable),
    ],
)
def test_each_error_of_kms_says_whether_the_secret_or_the_service_is_at_fault(
    stand_in: StandIn, code: str, kind: type[Unavailable]
) -> None:
    stand_in.answer = {"__type": code, "message": "User: arn:aws:iam::123456789012:user/ada may not do that"}
    with pytest.raises(Unavailable, match=code) as caught:
        asking(stand_in).unwrap(WRAPPED, CONTEXT)
    assert type(caught.value) is kind
    assert "123456789012" not in caught.value.message


def test_kms_is_told_which_key_may_decrypt_whatever_a_stored_secret_says(stand_in: StandIn) -> None:
    stand_in.answer = {"__type": "IncorrectKeyException"}
    access = asking(stand_in, previous_key_ids=("arn:aws:kms:eu-central-1:123456789012:key/key-2",))
    for wrapped in [WRAPPED, NAMES_KEY_2]:
        for call in [access.unwrap, access.rewrap]:
            with pytest.raises(VaultRefused):
                call(wrapped, CONTEXT)
    pins = [(target, body.get("KeyId") or body["SourceKeyId"]) for target, body in stand_in.asked]
    previous = "arn:aws:kms:eu-central-1:123456789012:key/key-2"
    assert pins == [
        ("TrentService.Decrypt", "alias/a"),
        ("TrentService.ReEncrypt", "alias/a"),
        ("TrentService.Decrypt", previous),
        ("TrentService.ReEncrypt", previous),
    ]


def test_a_key_of_several_regions_is_the_same_in_each(stand_in: StandIn) -> None:
    stand_in.status = 200
    stand_in.answer = {"KeyId": "arn:aws:kms:us-east-1:123456789012:key/key-1", "Plaintext": "eA=="}
    assert asking(stand_in).unwrap(WRAPPED, CONTEXT) == b"x"


def test_what_fails_for_a_moment_is_tried_so_many_times(stand_in: StandIn) -> None:
    stand_in.status, stand_in.answer = 500, {"__type": "KMSInternalException"}
    with pytest.raises(Unavailable):
        asking(stand_in, attempts_max=2).unwrap(WRAPPED, CONTEXT)
    assert len(stand_in.asked) == 2


async def test_another_process_wraps_and_unwraps_with_a_client_of_its_own(vault: AwsVault) -> None:
    wrapped = await vault.wrap(SECRET, CONTEXT)
    access = vault.access()
    access.unwrap(wrapped, CONTEXT)  # one that was used can be pickled as well
    process = ChildProcess(access)
    try:
        assert await process.call("unwrap", wrapped, CONTEXT) == SECRET
        assert await vault.unwrap(await process.call("wrap", b"made there", CONTEXT), CONTEXT) == b"made there"
        with pytest.raises(VaultRefused):
            await process.call("unwrap", wrapped, {"purpose": "another"})
    finally:
        await process.close()


def test_boto3_is_not_imported_before_it_is_needed() -> None:
    program = "import precipiq_vault_aws.plugin, precipiq_bundles_s3.plugin, sys; sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


_DEBUGGING = """
import asyncio, pickle, sys
from precipiq_core.system import SystemClock
from precipiq_logs.settings import LogSettings
from precipiq_logs.setup import configure_logging
from precipiq_vault_aws.service import AwsVault
configure_logging(LogSettings(level="debug"), SystemClock())
settings, secret, context = pickle.load(sys.stdin.buffer)
async def main():
    vault = AwsVault(settings)
    assert await vault.unwrap(await vault.wrap(secret, context), context) == secret
asyncio.run(main())
import logging
logging.getLogger("somebody").debug("debugging")
"""


async def test_no_log_shows_a_secret_or_credentials_even_at_level_debug(
    settings: KmsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that level botocore prints the bodies of requests and answers, and the headers that it signs."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-a-role")
    secret = b"plain secret of a test"
    message = pickle.dumps((settings, secret, CONTEXT))
    ended = subprocess.run([sys.executable, "-c", _DEBUGGING], input=message, capture_output=True, timeout=60)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0
    assert b"debugging" in said
    for hidden in [secret, base64.b64encode(secret), b"a-token-of-a-role"]:
        assert hidden not in said


INSTALLED = [
    EntryPoint("vault_aws", "precipiq_vault_aws.plugin:VaultAwsPlugin", "precipiq"),
    EntryPoint("bundles_s3", "precipiq_bundles_s3.plugin:BundlesS3Plugin", "precipiq"),
]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


class Console:
    is_terminal = False

    def say(self, text: str) -> None:
        raise AssertionError(text)


def boot(tmp_path: Path, vault: dict[str, Any], bundles: dict[str, Any]) -> Assembly:
    document = {
        "deployment": {"name": "aws"},
        "secrets": {"master_key": {"file": "master.key"}, "create_master_key": True},
        "plugins": {
            "vault_aws": {"key_id": "alias/precipiq", "region": REGION, **vault},
            "bundles_s3": {"bucket": "evidence", "region": REGION, **bundles},
        },
    }
    deployment = parse_deployment(document, tmp_path / "precipiq.toml", {})
    return assemble(
        deployment,
        clock=ManualClock(),
        randomness=SeededRandomness(),
        console=Console(),
        serving=True,
        installed=INSTALLED,
    )


async def test_the_plugins_boot_and_start_without_aws_and_the_vault_says_that_it_cannot_serve(
    tmp_path: Path, settings: KmsSettings
) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assembly = boot(tmp_path, {"endpoint_url": url, "attempts_max": 1}, {"endpoint_url": url})
        Application(assembly)
        with capture_logs() as lines:
            async with run_lifespans(assembly):
                vault = assembly.services.get(KeyVault)
                with pytest.raises(Unavailable):
                    await vault.check()
                await until(lambda: any(line["log_level"] == "critical" for line in lines))
        assert [url in line["reason"] for line in lines if line["log_level"] == "critical"] == [True]
    assert not {"KeyVault", "BundleStore"} & set(assembly.services.pings)


async def test_the_vault_of_a_deployment_wraps(tmp_path: Path, settings: KmsSettings) -> None:
    assembly = boot(tmp_path, {"key_id": settings.key_id, "endpoint_url": settings.endpoint_url}, {})
    with capture_logs() as lines:
        async with run_lifespans(assembly):
            vault = assembly.services.get(KeyVault)
            assert await vault.unwrap(await vault.wrap(SECRET, CONTEXT), CONTEXT) == SECRET
            await until(lambda: any(line["event"] == "the vault can serve" for line in lines))


@pytest.mark.parametrize(
    ("vault", "bundles", "problem"),
    [
        ({"endpoint_url": "http://kms.example"}, {}, "endpoint_url.*this machine"),
        ({"endpoint_url": "https://ada:word@kms.example"}, {}, "endpoint_url"),
        ({"previous_key_ids": ["alias/old"]}, {}, "previous_key_ids.*alias"),
        ({"access_key": "x"}, {}, "access_key.*unknown"),
        ({}, {"bucket": "../x"}, "bucket"),
        ({}, {"prefix": "/a"}, "prefix"),
        ({}, {"prefix": "a/../b"}, "prefix"),
        ({}, {"endpoint_url": "s3.example"}, "endpoint_url"),
        ({}, {"sse_kms_key_id": "x"}, "sse_kms_key_id"),
        ({}, {"sse": "rot13"}, "sse"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_at_boot(
    tmp_path: Path, vault: dict[str, Any], bundles: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DeploymentError, match=problem):
        boot(tmp_path, vault, bundles)


_DEPLOYMENT = """
[deployment]
name = "aws"

[database]
url = "sqlite:///precipiq.db"
migrate_at_start = true

[secrets]
master_key = { file = "master.key" }
create_master_key = true

[plugins.vault_aws]
key_id = "alias/precipiq"
region = "eu-central-1"

[plugins.bundles_s3]
bucket = "evidence"
region = "eu-central-1"
sse = "aws:kms"
sse_kms_key_id = "alias/bundles"
"""


def test_the_plugins_pass_the_check_of_a_deployment(tmp_path: Path) -> None:
    (tmp_path / "precipiq.toml").write_text(_DEPLOYMENT)
    command = [sys.executable, "-m", "precipiq_core.cli", "--config", str(tmp_path / "precipiq.toml"), "check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert {"vault_aws", "bundles_s3"} <= set(ended.stdout.replace(":", " ").split())
