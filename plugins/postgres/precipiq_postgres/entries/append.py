"""Appending on PostgreSQL: appends that wait for one chain share a transaction; chains are written in parallel.

The usual append is one round trip: entries are sealed on the head that this process saw last, and the database refuses
them when the chain has moved on or a key is known. Then, and while several processes write to a chain, the chain is
locked first and its head read. A connection that breaks leaves the outcome unknown: the next one finds out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from precipiq_chain.grouping import AppendJob, Group, seal_job, wanted_keys
from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_contracts.entry_store import Appended
from precipiq_contracts.errors import InternalError, Unavailable
from precipiq_postgres.entries.rows import erase_payload, is_stored, known_entries, prepare_append, read_head
from precipiq_postgres.errors import UNKNOWN_OUTCOME, ConnectionLost
from precipiq_postgres.roles import begin_as, literal
from precipiq_postgres.service import PostgresDatabase
from precipiq_postgres.transactions import in_transaction
from precipiq_work.fair_queue import chain_share

_GROUP_BYTES_MAX = 16 * 1024 * 1024
_HEADS_REMEMBERED_MAX = 10_000
_FINISH_TIMEOUT_S = 10.0
_RETRY_PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.5)

Appending = Sequence[Appended | Exception]


@dataclass(eq=False, slots=True)
class _Waiting:
    job: AppendJob
    future: asyncio.Future[Appended]
    size_bytes: int


@dataclass(slots=True)
class _Attempt:
    """The group sent last. It may be stored although its connection broke before the answer."""

    sent: Sequence[Entry] = ()
    results: Appending = ()
    head: Head | None = None


@dataclass(slots=True)
class _ChainState:
    """A chain as this process knows it. ``is_shared``: another process appended to it lately."""

    head: Head | None = None
    is_shared: bool = True
    waiting: deque[_Waiting] = field(default_factory=deque)
    is_running: bool = False


class PostgresAppender:
    """Group commit per chain. ``appended`` is told of every chain that grew."""

    def __init__(self, database: PostgresDatabase, appended: Callable[[Chain], None]) -> None:
        self._database = database
        self._settings = database.settings
        self._appended = appended
        self._chains: OrderedDict[Chain, _ChainState] = OrderedDict()
        self._waiting_count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, job: AppendJob) -> Appended:
        """Append together with the chain's other waiting appends. An append cancelled before its turn is withdrawn."""
        state, waiting_max = self._state(job.chain), self._settings.writer_queue_max
        if self._waiting_count >= waiting_max or len(state.waiting) >= chain_share(waiting_max):
            raise Unavailable("too many writes are waiting; try again")
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        size_bytes = sum(len(draft.body) + len(draft.payload or b"") for draft in job.drafts)
        state.waiting.append(_Waiting(job, future, size_bytes))
        self._waiting_count += 1
        if not state.is_running:
            state.is_running = True
            task = asyncio.ensure_future(self._serve(job.chain, state))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def finish(self) -> None:
        """Wait for the accepted appends, while the database answers."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FINISH_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _state(self, chain: Chain) -> _ChainState:
        state = self._chains.get(chain)
        if state is None:
            state = self._chains[chain] = _ChainState()
            while len(self._chains) > _HEADS_REMEMBERED_MAX:
                oldest = next(iter(self._chains.values()))
                if oldest.is_running:
                    break
                self._chains.popitem(last=False)
        self._chains.move_to_end(chain)
        return state

    async def _serve(self, chain: Chain, state: _ChainState) -> None:
        group: list[_Waiting] = []
        try:
            while group := self._next_group(state):
                await self._commit(chain, state, group)
        except asyncio.CancelledError:
            _settle(group, [Unavailable(UNKNOWN_OUTCOME)] * len(group))
            while group := self._next_group(state):
                _settle(group, [Unavailable("the ledger is closing")] * len(group))
            raise
        except Exception as error:
            _settle(group, [error] * len(group))  # else the caller would wait for ever
            while group := self._next_group(state):
                _settle(group, [Unavailable()] * len(group))
            raise
        finally:
            state.is_running = False

    def _next_group(self, state: _ChainState) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = size_bytes = 0
        while state.waiting:
            first = state.waiting[0]
            rows += max(len(first.job.drafts), 1)
            size_bytes += first.size_bytes
            if group and (rows > self._settings.group_rows_max or size_bytes > _GROUP_BYTES_MAX):
                break
            state.waiting.popleft()
            self._waiting_count -= 1
            if not first.future.cancelled():
                group.append(first)
        return group

    async def _commit(self, chain: Chain, state: _ChainState, group: Sequence[_Waiting]) -> None:
        """Store a group; when the group cannot be stored, store each of its appends alone."""
        try:
            results = await self._store(chain, state, [item.job for item in group])
        except Unavailable as error:
            results = [error] * len(group)
        except Exception as error:  # noqa: BLE001  (the callers get it; the chain must go on)
            if len(group) > 1:
                for item in group:
                    await self._commit(chain, state, [item])
                return
            results = [error]
        _settle(group, results)

    async def _store(self, chain: Chain, state: _ChainState, jobs: Sequence[AppendJob]) -> Appending:
        """Store a group; retry while the database is away, within the setting's time."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._settings.retry_s
        attempt = _Attempt()
        may_be_stored = False
        for tries in range(1_000_000):
            try:
                return await self._try(chain, state, jobs, attempt)
            except ConnectionLost as error:
                state.head, state.is_shared = None, True
                may_be_stored = may_be_stored or bool(attempt.sent)
                pause_s = _RETRY_PAUSES_S[min(tries, len(_RETRY_PAUSES_S) - 1)]
                if loop.time() + pause_s >= deadline_s:
                    raise Unavailable(UNKNOWN_OUTCOME if may_be_stored else error.message) from error
                await asyncio.sleep(pause_s)
            except Unavailable as error:
                if may_be_stored:
                    raise Unavailable(UNKNOWN_OUTCOME) from error
                raise
        raise AssertionError("unreachable")

    async def _try(self, chain: Chain, state: _ChainState, jobs: Sequence[AppendJob], attempt: _Attempt) -> Appending:
        results: Appending | None = None
        if not state.is_shared and not any(job.erased_seq is not None for job in jobs):
            results = await self._append_on_known_head(chain, state, jobs, attempt)
        if results is None:
            results = await self._append_under_lock(chain, state, jobs, attempt)
        if attempt.sent:
            self._appended(chain)
        return results

    async def _append_on_known_head(
        self, chain: Chain, state: _ChainState, jobs: Sequence[AppendJob], attempt: _Attempt
    ) -> Appending | None:
        """None when the head is another one, a key may be known, or a seal refuses: the caller then reads the head."""
        group = Group({} if state.head is None else {chain: state.head}, {})
        results = [seal_job(group, job) for job in jobs]
        if not group.new or any(isinstance(result, Exception) for result in results):
            return None
        append = prepare_append(chain, state.head, group.new)

        async def send(connection: asyncpg.Connection) -> str:
            attempt.sent, attempt.results = tuple(group.new), results
            return await append(connection)

        outcome = await self._database.run_single(begin_as(chain, read_only=False), send)
        if outcome != "appended":
            attempt.sent, attempt.results = (), ()
            state.is_shared = state.is_shared or outcome == "moved"
            return None
        state.head = group.heads[chain]
        return results

    async def _append_under_lock(
        self, chain: Chain, state: _ChainState, jobs: Sequence[AppendJob], attempt: _Attempt
    ) -> Appending:
        lock = f"SELECT lock_chain({literal(chain.org_id)}, {literal(chain.environment)})"
        begin = f"{begin_as(chain, read_only=False)}; {lock}"

        async def work(connection: asyncpg.Connection) -> tuple[Head | None, bool]:
            if attempt.sent and await is_stored(connection, chain, attempt.sent[0]):
                return None, True
            head = await read_head(connection, chain)

            async def append(known: dict[tuple[Chain, str], Entry], *, is_sure: bool) -> str:
                group = Group({} if head is None else {chain: head}, known)
                attempt.results = [seal_job(group, job) for job in jobs]
                if not is_sure and any(isinstance(result, Exception) for result in attempt.results):
                    return "known"  # a draft that a seal refuses may be stored already
                attempt.sent, attempt.head = tuple(group.new), group.heads.get(chain)
                return await prepare_append(chain, head, group.new)(connection) if group.new else "appended"

            outcome = await append({}, is_sure=not wanted_keys(jobs))
            if outcome == "known":
                outcome = await append(await known_entries(connection, chain, jobs), is_sure=True)
            if outcome != "appended":
                raise InternalError(f"a locked chain cannot be appended to: {outcome}")
            for job, result in zip(jobs, attempt.results, strict=True):
                if job.erased_seq is not None and isinstance(result, Appended):
                    await erase_payload(connection, chain, job.erased_seq)
            return head, False

        try:
            head, was_stored = await self._database.run(lambda connection: in_transaction(connection, begin, work))
        except ConnectionLost:
            raise
        except Exception:
            attempt.sent, attempt.results = (), ()
            raise
        if not was_stored:
            state.is_shared = head != state.head
            state.head = attempt.head or head
        return attempt.results


def _settle(group: Sequence[_Waiting], results: Appending) -> None:
    for item, result in zip(group, results, strict=True):
        if item.future.done():
            continue
        if isinstance(result, Exception):
            item.future.set_exception(result)
        else:
            item.future.set_result(result)
