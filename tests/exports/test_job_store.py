"""The table of exports: claimed once, fenced by attempts, bounded, its events stored with its changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

import precipiq_exports
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import uuid7
from precipiq_contracts.database import Migration
from precipiq_core.outbox import OutboxEvent
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import Beat, Failure, Job, Lease, Range, Request
from precipiq_testkit.clock import SeededRandomness
from precipiq_testkit.macs import ROW_MACS
from precipiq_testkit.postgres import PostgresDatabase
from tests.databases import new_database

pytestmark = pytest.mark.anyio

MIGRATIONS = Path(precipiq_exports.__file__).parent / "sql" / "migrations"
TABLES = dict.fromkeys(("exports", "signing_keys", "export_events"), ("org_id", "environment"))
ALPHA, BETA = Chain("org_alpha", "test"), Chain("org_beta", "test")
SECOND_US = 1_000_000
RANDOMNESS = SeededRandomness()


@pytest.fixture
async def store(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[JobStore]:
    settings = {"migrate_at_start": True} if server_database is None else server_database.settings()
    database = new_database(settings, tmp_path)
    async with database.open([Migration("exports", MIGRATIONS, TABLES)]):
        yield JobStore(database, ROW_MACS)


def new_job(chain: Chain = ALPHA, created_us: int = 1) -> Job:
    export_id = f"exp_{uuid7(created_us * 1000, RANDOMNESS.bytes(10)).replace('-', '')}"
    times = (created_us, None, None, None)
    return Job(export_id, chain, "pending", Request(), "key_1", *times, 0, 0, None, 0.0, None, None, {}, None)


def event(job: Job, kind: str = "export_requested") -> OutboxEvent:
    return OutboxEvent(f"{job.export_id}:{kind}", job.chain, kind, "key_1", {"export_id": job.export_id})


async def added(store: JobStore, chain: Chain = ALPHA, created_us: int = 1) -> Job:
    job = new_job(chain, created_us)
    assert await store.add(job, None, event(job), open_max=100)
    return job


async def claimed(
    store: JobStore,
    owner: str = "one",
    now_us: int = SECOND_US,
    each: int = 1,
    after_org: str = "",
    *,
    tests: bool = True,
) -> Job | None:
    until_us = now_us + 10 * SECOND_US
    return await store.claim(owner, now_us, until_us, per_organisation_max=each, after_org=after_org, tests=tests)


def lease(job: Job, owner: str = "one") -> Lease:
    return Lease(job.export_id, job.attempt, owner)


async def waiting(store: JobStore) -> list[str]:
    return [item.kind for item in await store.events.fetch_waiting(100)]


def finished(job: Job) -> Job:
    return replace(job, finished_us=5, expires_us=10, size_bytes=7, sha256="ab" * 32, result={"entries": 3})


async def test_what_was_asked_for_is_stored_with_its_event(store: JobStore) -> None:
    request = Request("s", "e", "a", "t", 1, 2, ("csv",))
    job = replace(new_job(), request=request)
    assert await store.add(job, "key", event(job), open_max=1)
    assert await store.get(ALPHA, job.export_id) == job
    assert await store.by_idempotency_key(ALPHA, "key") == job
    assert await waiting(store) == ["export_requested"]
    for chain in (BETA, Chain("org_alpha", "live")):
        assert await store.get(chain, job.export_id) is None
        assert await store.by_idempotency_key(chain, "key") is None


async def test_no_more_than_the_bound_are_open_and_a_known_key_adds_nothing(store: JobStore) -> None:
    first, second = new_job(), new_job()
    assert await store.add(first, "key", event(first), open_max=2)
    assert not await store.add(second, "key", event(second), open_max=2)
    live = new_job(Chain("org_alpha", "live"))
    assert await store.add(live, "key", event(live), open_max=2)
    assert await store.add(second, None, event(second), open_max=2)
    third = new_job()
    assert not await store.add(third, None, event(third), open_max=2)
    live = new_job(Chain("org_alpha", "live"))
    assert await store.add(live, None, event(live), open_max=2)
    assert len(await waiting(store)) == 4
    beta = new_job(BETA)
    assert await store.add(beta, None, event(beta), open_max=2)


async def test_the_oldest_is_claimed_first_by_one_and_per_organisation_no_more_than_allowed(store: JobStore) -> None:
    jobs = [await added(store, chain, created) for created, chain in enumerate((ALPHA, ALPHA, BETA), start=1)]
    claims = [job for job in await asyncio.gather(*(claimed(store, f"node-{n}") for n in range(6))) if job is not None]
    assert sorted(job.export_id for job in claims) == sorted((jobs[0].export_id, jobs[2].export_id))
    assert all((job.status, job.attempt, job.failures) == ("running", 1, 0) for job in claims)
    assert await store.has_open(SECOND_US)
    more = await claimed(store, each=2)
    assert more is not None
    assert more.export_id == jobs[1].export_id
    assert not await store.has_open(SECOND_US)


async def test_organisations_take_turns_and_live_does_not_wait_for_test(store: JobStore) -> None:
    live = Chain("org_alpha", "live")
    for created, chain in enumerate((ALPHA, ALPHA, ALPHA, live, BETA, BETA), start=1):
        await added(store, chain, created)
    order: list[Chain] = []
    last = ""
    while (job := await claimed(store, each=9, after_org=last)) is not None:
        order.append(job.chain)
        last = job.chain.org_id
    assert order == [live, BETA, ALPHA, BETA, ALPHA, ALPHA]


async def test_what_runs_for_test_keeps_no_live_export_waiting(store: JobStore) -> None:
    await added(store)
    assert await claimed(store) is not None
    await added(store)
    await added(store, Chain("org_alpha", "live"))
    await added(store, BETA)
    live = await claimed(store)
    assert live is not None
    assert live.chain.environment == "live"
    assert await claimed(store, tests=False) is None
    assert await claimed(store) is not None
    assert await claimed(store) is None


async def test_an_export_whose_worker_is_silent_is_taken_over_and_the_old_one_has_no_say(store: JobStore) -> None:
    await added(store)
    old = await claimed(store)
    assert old is not None
    assert await store.fix_range(lease(old), Range(0, 9))
    assert await claimed(store, "two", now_us=99 * SECOND_US) is None
    [beat] = await store.beats()
    new = await store.take_over("two", beat, 2 * SECOND_US, 12 * SECOND_US)
    assert new is not None
    assert await store.take_over("three", beat, 2 * SECOND_US, 12 * SECOND_US) is None
    assert (new.attempt, new.failures, new.range) == (2, 1, Range(0, 9))
    assert not await store.renew(lease(old), 99 * SECOND_US, 1, 2)
    assert not await store.complete(lease(old), finished(old), event(old, "export_completed"))
    assert not await store.give_up(lease(old), Failure("x", "y"), 5, event(old, "export_failed"))
    assert not await store.put_back(lease(old), 0, failed=True)
    assert await waiting(store) == ["export_requested"]
    assert await store.complete(lease(new, "two"), finished(new), event(new, "export_completed"))
    stored = await store.get(ALPHA, new.export_id)
    assert stored is not None
    assert (stored.status, stored.attempt, stored.result, stored.progress) == ("completed", 2, {"entries": 3}, 1.0)
    assert await waiting(store) == ["export_completed", "export_requested"]


async def test_it_completes_once_and_its_event_is_stored_once(store: JobStore) -> None:
    await added(store)
    job = await claimed(store)
    assert job is not None
    completed = event(job, "export_completed")
    assert await store.complete(lease(job), finished(job), completed)
    assert not await store.complete(lease(job), finished(job), completed)
    assert (await waiting(store)).count("export_completed") == 1


async def test_it_fails_once_and_its_event_is_stored_once(store: JobStore) -> None:
    await added(store)
    job = await claimed(store)
    assert job is not None
    failure, failed = Failure("export_failed", "no"), event(job, "export_failed")
    assert await store.give_up(lease(job), failure, 5, failed)
    assert not await store.give_up(lease(job), failure, 5, failed)
    assert (await waiting(store)).count("export_failed") == 1


async def test_a_cancelled_export_is_not_renewed_and_not_completed(store: JobStore) -> None:
    waits = await added(store, created_us=1)
    assert await store.cancel(ALPHA, waits.export_id, 5, event(waits, "export_cancelled"))
    runs = await added(store, created_us=2)
    job = await claimed(store)
    assert job is not None
    assert job.export_id == runs.export_id
    assert not await store.cancel(BETA, job.export_id, 5, event(job, "export_cancelled"))
    assert await store.renew(lease(job), 99 * SECOND_US, 1, 2)
    assert await store.cancel(ALPHA, job.export_id, 5, event(job, "export_cancelled"))
    assert not await store.renew(lease(job), 99 * SECOND_US, 2, 2)
    assert not await store.complete(lease(job), finished(job), event(job, "export_completed"))
    assert not await store.cancel(ALPHA, job.export_id, 6, event(job, "export_cancelled"))
    assert (await waiting(store)).count("export_cancelled") == 2
    assert "export_completed" not in await waiting(store)


async def test_what_is_put_back_waits_its_time(store: JobStore) -> None:
    await added(store)
    job = await claimed(store)
    assert job is not None
    assert await store.put_back(lease(job), 5 * SECOND_US, failed=True)
    assert await claimed(store, now_us=4 * SECOND_US) is None
    again = await claimed(store, now_us=5 * SECOND_US)
    assert again is not None
    assert (again.attempt, again.failures) == (2, 1)


async def test_leftovers_are_those_of_ended_exports_and_of_given_up_attempts(store: JobStore) -> None:
    await added(store)
    job = await claimed(store)
    assert job is not None
    assert [item.export_id for item in await store.with_leftovers(10)] == []
    assert await store.complete(lease(job), finished(job), event(job, "export_completed"))
    assert await store.with_leftovers(10) == []
    await store.expire(9)
    assert await store.with_leftovers(10) == []
    await store.expire(10)
    [expired] = await store.with_leftovers(10)
    assert (expired.export_id, expired.status) == (job.export_id, "expired")
    await store.note_tidied(expired)
    assert await store.with_leftovers(10) == []


async def test_who_begins_at_once_holds_the_lease_from_the_start(store: JobStore) -> None:
    job = new_job(created_us=SECOND_US)
    assert await store.add_leased(job, event(job), "cli", 20 * SECOND_US, open_max=5)
    assert await claimed(store, "server") is None
    stored = await store.get(ALPHA, job.export_id)
    assert stored is not None
    assert (stored.status, stored.attempt) == ("running", 1)
    [beat] = await store.beats()
    assert beat == Beat(job.export_id, 1, 20 * SECOND_US)
    assert await store.renew(lease(stored, "cli"), 30 * SECOND_US, 0, 0)
    assert await store.take_over("server", beat, SECOND_US, 9 * SECOND_US) is None
    [beat] = await store.beats()
    assert await store.take_over("server", beat, SECOND_US, 9 * SECOND_US) is not None


@pytest.mark.parametrize("until_us", [1, 20 * SECOND_US, 99 * SECOND_US])
async def test_every_renewal_is_a_new_sign_of_life_whatever_the_clock(store: JobStore, until_us: int) -> None:
    await added(store)
    job = await claimed(store)
    assert job is not None
    beats = [*await store.beats()]
    for _ in range(3):
        assert await store.renew(lease(job), until_us, 1, 2)
        beats += await store.beats()
    assert len(set(beats)) == 4


async def test_a_wait_that_a_clock_ahead_noted_is_over(store: JobStore) -> None:
    await added(store)
    job = await claimed(store)
    assert job is not None
    assert await store.put_back(lease(job), 3_600 * SECOND_US, failed=True)
    assert await claimed(store, now_us=3_301 * SECOND_US) is None
    assert await claimed(store, now_us=3_299 * SECOND_US) is not None


async def test_pages_are_newest_first_and_of_one_chain(store: JobStore) -> None:
    ids = [(await added(store, created_us=number)).export_id for number in range(1, 6)]
    await added(store, BETA, 3)
    first = await store.page(ALPHA, None, 3)
    rest = await store.page(ALPHA, first[-1].export_id, 3)
    assert [job.export_id for job in (*first, *rest)] == ids[::-1]
