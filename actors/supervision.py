"""Workers that come back: who is lost is started anew on its seat, brought to where the others of
its role are, and only then asked.

The driver decides, worker by worker, rather than Ray, whose restarted actors would serve with the
weights that they were made with.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import ray

from actors.group import Worker, wait_ready
from cluster import head, room
from rlhf.collecting.dispatch import WorkerDied
from rlhf.problems import InputError, RunFailed, one_line
from rlhf.watching.restarts import Restarts

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Before the second attempt in a row, doubled with each further one; the first is made at once."""

LONGEST_PAUSE_S = 5.0
"""Between two beats of a worker."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and for how long, lost workers are waited for."""

    max_restarts: int
    """Of a worker, without an answer of it between them."""
    start_timeout_s: float
    silence_s: float
    """Longest time in which a process does not even say that it lives."""


class Supervisor:
    """`actors.group.Keeper` of one role."""

    def __init__(
        self,
        role: str,
        workers: Sequence[Worker],
        prepare: Callable[[Worker], Awaitable[object]],
        patience: Patience,
        restarts: Restarts,
        lets_go: Callable[[Worker], bool] | None = None,
        may_start: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`prepare` brings a worker that is ready to where the others are; what it raises is one
        more death. Whom `lets_go` says so of is not started anew; `may_start` waits until what
        one needs is free."""
        self._role = role
        self._prepare = prepare
        self._patience = patience
        self._restarts = restarts
        self._lets_go = lets_go
        self._may_start = may_start
        self._in_a_row: Counter[Worker] = Counter()
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        for worker in workers:
            worker.keeper = self

    def bring_back(self, worker: Worker) -> None:
        task = asyncio.create_task(self._bring_back(worker))
        task.add_done_callback(_seen)
        self._tasks[worker] = task

    async def watch(self, worker: Worker, done: asyncio.Event) -> None:
        while not done.is_set():
            if worker.cause is None:
                handle = worker.handle
                try:
                    await beats(worker, self._patience.silence_s)
                except WorkerDied as death:
                    worker.lose(handle, str(death), death.details)
            await pause(done, self._patience.silence_s)

    async def is_back(self, worker: Worker) -> None:
        await asyncio.shield(self._tasks[worker])

    def has_answered(self, worker: Worker) -> None:
        self._in_a_row.pop(worker, None)

    @property
    def start_timeout_s(self) -> float:
        return self._patience.start_timeout_s

    async def _bring_back(self, worker: Worker) -> None:
        assert worker.cause is not None
        while (number := self._in_a_row[worker]) < self._patience.max_restarts:
            if self._lets_go is not None and self._lets_go(worker):
                raise WorkerDied(worker.cause)
            self._in_a_row[worker] = number + 1
            self._restarts.begin(self._role, worker.name, worker.cause, worker.details)
            if number:
                await asyncio.sleep(min(FIRST_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S))
            await head.back(self._patience.silence_s)  # without it nothing starts
            if self._may_start is not None:
                await self._may_start()
            try:
                await self._start(worker)
                await self._prepare(worker)
            except (RunFailed, InputError) as error:
                worker.cause = one_line(error) if isinstance(error, InputError) else str(error)
                worker.details = "" if isinstance(error, InputError) else error.details
            else:
                worker.cause = None
                return
        worker.is_given_up = True
        cause = (
            f"{worker.cause} (started anew {number} times in a row, "
            f"cluster.max_restarts={self._patience.max_restarts})"
        )
        self._restarts.give_up(worker.name, cause, worker.details)
        raise WorkerDied(cause, details=worker.details)

    async def _start(self, worker: Worker) -> None:
        """Until it is ready; raises WorkerDied if its node goes meanwhile, for which Ray waits."""
        is_at_home = start_anew(worker)
        ready = asyncio.create_task(wait_ready([worker], self._patience.start_timeout_s))
        try:
            while not ready.done():
                await asyncio.wait([ready], timeout=LONGEST_PAUSE_S)
                if is_at_home and not ready.done() and not room.is_there(worker.home):
                    raise WorkerDied(f"{worker.name} on node {worker.home[:8]}: the node is gone")
            await ready
        finally:
            ready.cancel()


async def beats(worker: Worker, silence_s: float) -> None:
    """Raises WorkerDied if the worker's process is dead, or does not say that it lives."""
    try:
        async with asyncio.timeout(silence_s):
            await worker.beat()
    except TimeoutError as error:
        raise WorkerDied(
            f"{worker.name} on node {worker.node_id[:8]}: for {silence_s:g} s its process has not "
            "said that it lives (cluster.silence_s): it is stopped, or its machine hangs"
        ) from error


async def pause(done: asyncio.Event, silence_s: float) -> None:
    """Between two beats; ends early once it is done."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(silence_s / 4, LONGEST_PAUSE_S)):
            await done.wait()


def start_anew(worker: Worker) -> bool:
    """Another actor in the worker's place; the one that had it ends, if it has not. Whether it
    starts on its seat, rather than wherever there is room since that node is gone."""
    assert worker.again is not None
    ray.kill(worker.handle)
    is_at_home = room.is_there(worker.home)
    if not is_at_home and worker.makes_room is not None:
        worker.makes_room()
    worker.handle = worker.again(None if is_at_home else room.ended())
    return is_at_home


def _seen(task: asyncio.Task[None]) -> None:
    """Nobody may wait for a worker that is not asked just then."""
    if not task.cancelled():
        task.exception()
