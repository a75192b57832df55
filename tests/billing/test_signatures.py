"""Only what Stripe signed, for this endpoint, about now, is taken; what was altered changes nothing."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from precipiq_billing.errors import SignatureInvalid
from precipiq_billing.signatures import verify_signature
from precipiq_testkit.server import ServerProcess, running_server
from tests.billing import stripe_events as stripe
from tests.billing.stripe_events import Account, money
from tests.effort import rounds
from tests.system.client import Client

SECRET = stripe.new_secret()
BODY = stripe.body_of(stripe.event("payment_intent.succeeded", stripe.payment_intent()))
NOW_S = 1_800_000_000
MUTATIONS = 2000
DELIVERED = rounds(300, long=MUTATIONS)


def signed(at: float = NOW_S, secret: str = SECRET, body: bytes = BODY) -> str:
    return stripe.signature(body, secret, at)


def check(header: str | None, *, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> None:
    verify_signature(body, header, secrets, NOW_S * 1_000_000)


def test_what_the_library_signed_is_taken() -> None:
    check(signed())
    check(signed(), secrets=(stripe.new_secret(), SECRET))
    check(signed(NOW_S - 300))
    check(signed(NOW_S + 300))
    one, other = signed().split(","), signed(secret=stripe.new_secret()).split(",")
    check(f"{one[0]},{other[1]},{one[1]},v0={'0' * 64}")
    check(f"{one[1]},{one[0]}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "t=,v1=",
        "nonsense",
        f"v1={'0' * 64}",
        f"t={NOW_S}",
        signed().replace("v1=", "v0="),
        signed().replace("v1=", "v1=0"),
        signed().upper(),
        signed(NOW_S - 301),
        signed(NOW_S + 301),
        signed(NOW_S + 365 * 86_400),
        signed() + f",t={NOW_S}",
        f"t={NOW_S - 1}," + signed(),
        signed().replace("t=", "t=+"),
        signed().replace("t=", "t=0"),
        signed().replace("t=", " t="),
        signed().replace(",", ", "),
        signed().replace("=", "=="),
        signed().replace("t=1", "t=\u0661"),
        signed(secret=stripe.new_secret()),
        signed(body=BODY + b" "),
        "t=" + "9" * 400 + ",v1=00",
        ",".join([signed()] + ["v1=" + "0" * 64] * 200),
    ],
)
def test_any_other_header_is_refused(header: str | None) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        check(header)
    assert caught.value.__cause__ is None
    assert SECRET not in repr(caught.value.__dict__)


def test_no_secret_and_bytes_that_are_no_text_are_refused() -> None:
    for options in ({"secrets": ()}, {"secrets": ("",)}, {"secrets": (" ",)}, {"body": b"\xff\xfe"}, {"body": b""}):
        with pytest.raises(SignatureInvalid):
            check(signed(), **options)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("attacked")) as server:
        yield server


def test_two_thousand_altered_deliveries_are_refused() -> None:
    for content, header in mutations(BODY, signed(), random.Random(4)):
        with pytest.raises(SignatureInvalid):
            check(header, body=content)


def _rows(server: ServerProcess) -> list[int]:
    return [server.sql(f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("stripe_deliveries", "stripe_registers")]


@pytest.mark.system
def test_altered_deliveries_store_nothing(attacked: ServerProcess) -> None:
    client = Client(attacked)
    account = Account(client)
    body = stripe.body_of(stripe.event("payment_intent.succeeded", stripe.payment_intent()))
    header = stripe.signature(body, account.secret)
    mutated = list(itertools.islice(mutations(body, header, random.Random(5)), DELIVERED))
    assert len(mutated) == DELIVERED
    before = client.data("GET", "/ledger/head")
    rows_before = _rows(attacked)

    def send(part: list[tuple[bytes, str]]) -> list[int]:
        with httpx2.Client(base_url=client.http.base_url, timeout=60) as connection:
            return [
                connection.post(account.path, content=content, headers={"stripe-signature": value}).status_code
                for content, value in part
            ]

    with ThreadPoolExecutor(4) as threads:
        statuses = [status for part in threads.map(send, [mutated[i::4] for i in range(4)]) for status in part]
    assert set(statuses) == {400}
    assert client.data("GET", "/ledger/head") == before
    assert _rows(attacked) == rows_before
    assert account.deliver(body)["processed"] is True, "the one that was not altered"
    log = attacked.log_text()
    assert account.secret not in log
    assert header.partition("v1=")[2] not in log
    assert "Traceback" not in log


def mutations(body: bytes, header: str, chance: random.Random) -> Iterator[tuple[bytes, str]]:
    """Bytes of the body, and characters of time and signature, flipped, dropped, doubled and swapped."""
    seen = {(body, header)}
    while len(seen) <= MUTATIONS:
        content, value = body, header
        if chance.random() < 0.5:
            content = altered(body, chance)
        else:
            value = altered(header.encode(), chance).decode("latin-1")
            if not value.isascii() or not value.isprintable() or value.strip() == header:
                continue
        if (content, value) not in seen:
            seen.add((content, value))
            yield content, value


def altered(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    match chance.randrange(5):
        case 0:
            return text[:at] + bytes([text[at] ^ 1 << chance.randrange(7)]) + text[at + 1 :]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text[:at] + text[at : at + 1] + text[at:]
        case 3:
            return text[:at] + chance.choice(b"0123456789abcdef").to_bytes(1, "big") + text[at + 1 :]
        case _:
            other = chance.randrange(len(text))
            low, high = sorted((at, other))
            return text[:low] + text[high : high + 1] + text[low + 1 : high] + text[low : low + 1] + text[high + 1 :]


@pytest.mark.system
def test_other_ways_in_are_closed(attacked: ServerProcess) -> None:
    client = Client(attacked)
    account = Account(client)
    before = len(money(client))
    body = stripe.body_of(stripe.event("payment_intent.succeeded", stripe.payment_intent("pi_other")))
    good = stripe.signature(body, account.secret)

    def post(content: Any = body, **headers: str) -> httpx2.Response:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return client.http.post(account.path, content=content, headers=fields)

    assert post().status_code == 400, "no signature"
    twice = client.http.post(account.path, content=body, headers=[("stripe-signature", good)] * 2)
    assert twice.status_code == 400, "the header twice"
    giant = post(b"x" * (1024 * 1024 + 1), stripe_signature=good)
    assert (giant.status_code, giant.json()["error"]["code"]) == (413, "payload_too_large")
    assert post(iter([b"x" * 65536] * 20), stripe_signature=good).status_code == 413, "chunked, without a length"
    assert post(body, stripe_signature=good, content_encoding="gzip").status_code == 415
    old = stripe.signature(body, account.secret, time.time() - 310)
    future = stripe.signature(body, account.secret, time.time() + 310)
    assert {post(body, stripe_signature=header).status_code for header in (old, future)} == {400}
    bom = b"\xef\xbb\xbf" + body
    assert post(bom, stripe_signature=stripe.signature(bom, account.secret)).status_code == 400
    assert post(b"\xff", stripe_signature=good).status_code == 400
    assert client.http.get(account.path).status_code == 405
    answers = [post(body, stripe_signature=good).json()["data"]["processed"] for _ in range(2)]
    assert answers == [True, False]
    assert len(money(client)) == before + 1
