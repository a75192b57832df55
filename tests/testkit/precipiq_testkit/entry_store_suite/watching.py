"""Watching: a wake-up may come for nothing, but none may be missed, and nothing stays behind."""

from __future__ import annotations

import asyncio

import anyio
from anyio.lowlevel import checkpoint

from precipiq_contracts.chain import Entry
from precipiq_contracts.entry_store import EntryStore
from precipiq_testkit.entry_store_suite.support import ALPHA, StoreTests, seqs, take_wake_ups_until
from precipiq_testkit.sealing import Writer


class WatchTests(StoreTests):
    async def test_an_append_wakes_one_who_waits(self, store: EntryStore, writer: Writer) -> None:
        """An append MUST wake every watcher of its chain that waits at the time.

        On failure: is the wake-up sent after the commit, and to all watchers of the chain?
        """
        waiting = anyio.Semaphore(0)

        async def wait_for_entry() -> None:
            async with store.watch(ALPHA) as wake_ups:
                waiting.release()
                await take_wake_ups_until(store, wake_ups, 1)

        with self.patience("a wake-up"):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(wait_for_entry)
                for _ in range(3):
                    await waiting.acquire()
                await writer.append(ALPHA)

    async def test_an_append_between_check_and_wait_is_not_missed(self, store: EntryStore, writer: Writer) -> None:
        """An append after ``watch`` was entered MUST wake the next wait, though nobody waited when it happened.

        On failure: is a wake-up kept when nobody waits? Is the watcher registered before ``watch`` lets its caller in?
        """
        with self.patience("a wake-up"):
            async with store.watch(ALPHA) as wake_ups:
                for seq in range(1, 21):
                    assert len(await store.read(ALPHA, seq - 1, 10)) == 0
                    await writer.append(ALPHA)
                    await take_wake_ups_until(store, wake_ups, seq)

    async def test_a_follower_sees_everything_while_others_write(self, store: EntryStore, writer: Writer) -> None:
        """Reading after each wake-up MUST reach every entry, whatever appends come between reading and waiting.

        On failure: is a wake-up that comes while the last one is being handled thrown away?
        """
        followed: list[Entry] = []

        async def write(pause: int) -> None:
            for number in range(20):
                await writer.append(ALPHA)
                for _ in range(number * pause % 5):
                    await checkpoint()

        with self.patience("a wake-up"):
            async with store.watch(ALPHA) as wake_ups, anyio.create_task_group() as group:
                for pause in range(4):
                    group.start_soon(write, pause)
                while len(followed) < 80:
                    step = await store.read(ALPHA, len(followed), 10)
                    followed.extend(step)
                    if not step:
                        await anext(wake_ups)
        assert seqs(followed) == list(range(1, 81))

    async def test_a_redaction_wakes_too(self, store: EntryStore, writer: Writer) -> None:
        """``redact`` appends an entry, so it MUST wake the chain's watchers.

        On failure: is the wake-up part of ``append`` only?
        """
        target = (await writer.fill(ALPHA, 1))[0]
        with self.patience("a wake-up"):
            async with store.watch(ALPHA) as wake_ups:
                await writer.redact(ALPHA, target)
                await take_wake_ups_until(store, wake_ups, 2)

    async def test_a_watcher_who_leaves_leaves_nothing_behind(self, store: EntryStore, writer: Writer) -> None:
        """Leaving ``watch``, by cancellation too, MUST end what it started and disturb no other watcher.

        On failure: a task, listener or queue per watcher that nobody ends.
        """
        await self._watch_and_leave(store)
        tasks_count = len(asyncio.all_tasks())
        with self.patience("a wake-up"):
            async with store.watch(ALPHA) as wake_ups:
                for _ in range(50):
                    await self._watch_and_leave(store)
                await writer.append(ALPHA)
                await take_wake_ups_until(store, wake_ups, 1)
        assert len(asyncio.all_tasks()) <= tasks_count + 1, "watchers that left have left tasks behind"

    async def _watch_and_leave(self, store: EntryStore) -> None:
        async def watch_for_ever(entered: anyio.Event) -> None:
            async with store.watch(ALPHA) as wake_ups:
                entered.set()
                async for _ in wake_ups:
                    pass

        entered = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(watch_for_ever, entered)
            await entered.wait()
            await checkpoint()
            group.cancel_scope.cancel()
