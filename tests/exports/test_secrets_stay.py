"""After exports: no memory of the web process, no file, no row and no log line holds a private or a master key."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from precipiq_contracts.chain import Chain
from precipiq_contracts.secret_location import SecretLocation
from precipiq_core.system import SystemRandomness
from precipiq_exports.signing_key_store import context_of
from precipiq_testkit.process_memory import search_memory
from precipiq_testkit.server import ServerProcess
from precipiq_vault_local.keys import LocalVaultAccess
from tests.system.client import Client

from .evidence import bundle_of, exported

PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}")
KEY_FILES = ("master.key", "vault.key")


def needles(server: ServerProcess) -> dict[str, bytes]:
    """The secrets of this deployment as they would lie somewhere, and two things that lie there rightly."""
    found = {"public: organisation": server.org_id.encode()}
    for name in KEY_FILES:
        text = (server.data_dir / name).read_text().strip()
        found |= {f"{name}, text": text.encode(), f"{name}, raw": bytes.fromhex(text)}
    [(key_id, environment, public, wrapped)] = server.sql(
        "SELECT key_id, environment, public_key, wrapped_key FROM signing_keys"
    )
    access = LocalVaultAccess(SecretLocation(file=server.data_dir / "vault.key"), (), SystemRandomness())
    context = context_of(Chain(server.org_id, environment), key_id)
    private = access.unwrap(base64.b64decode(wrapped), context)
    key = load_der_private_key(private, None)
    assert isinstance(key, RSAPrivateKey)
    numbers = key.private_numbers()
    for name, number in {"p": numbers.p, "q": numbers.q, "d": numbers.d}.items():
        size = (number.bit_length() + 7) // 8
        found[f"private {name}"] = number.to_bytes(size)
        found[f"private {name}, reversed"] = number.to_bytes(size, "little")
    found["private, base64"] = base64.b64encode(private)[64:128]
    found["public: key"] = base64.b64decode(public)[40:200]
    return found


def held(content: bytes, needles: Mapping[str, bytes]) -> set[str]:
    return {name for name, needle in needles.items() if needle in content} | ({"PEM"} if PEM.search(content) else set())


def dump(server: ServerProcess) -> bytes:
    """Every row of every table."""
    if server.postgres is None:
        return server.database_file.read_bytes() + Path(f"{server.database_file}-wal").read_bytes()
    tables = server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'precipiq'")
    return "\n".join(str(server.sql(f'SELECT * FROM "{name}"')) for (name,) in tables).encode()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_secret_is_anywhere_but_in_its_own_file_and_in_the_signing_process(server: ServerProcess) -> None:
    client = Client(server)
    for number in range(20):
        client.decide(number)
    bundle = bundle_of(client, exported(client))
    client.data("GET", "/exports/signing-keys")
    wanted = needles(server)
    secret = {name: needle for name, needle in wanted.items() if not name.startswith("public")}

    in_memory = search_memory(server.process.pid, wanted)
    assert in_memory == {"public: organisation", "public: key"}
    assert held(dump(server), wanted) == {"public: organisation"}
    assert held(server.log_file.read_bytes(), secret) == set()
    assert held(bundle, secret) == set()
    for path in server.data_dir.rglob("*"):
        if path.is_file():
            allowed = {f"{path.name}, text"} if path.name in KEY_FILES else set()
            assert held(path.read_bytes(), secret) == allowed, path
    assert [path for path in server.folder.rglob("core*") if path.is_file()] == []
