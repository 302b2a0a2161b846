"""One queue in front of the workers of a stage.

Coroutines ask for one thing at a time; workers are good at many things at once. The dispatcher
gathers the requests that became ready in the same turn of the event loop, sorts them by key (so
that batches, and with them the results, do not depend on timing), sends each worker one call, and
hands results back as they finish.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from rlhf.problems import RunFailed

Request = TypeVar("Request")
Asked = TypeVar("Asked", contravariant=True)
Result = TypeVar("Result")


class WorkerDied(RunFailed):
    """A worker is gone; its unfinished requests can be asked of another. Names worker and cause."""


class StageFailed(RunFailed):
    """No worker is left to ask, or one request outlived every worker that tried it."""


class RequestFailed(RunFailed):
    """This one request cannot be served; others can."""


@dataclass(frozen=True, slots=True)
class Failure:
    """In place of a result: the request cannot be served, and why."""

    reason: str


class Worker(Protocol[Asked, Result]):
    """One worker, as the dispatcher sees it."""

    name: str

    @property
    def comes_back(self) -> bool:
        """Whether somebody sees to it that it can be asked again once it is lost."""
        ...

    async def is_back(self) -> None:
        """Waits until then; raises WorkerDied if it never will."""
        ...

    def call(self, requests: Sequence[Asked]) -> AsyncGenerator[list[tuple[int, Result]], None]:
        """Yields lists of (index into `requests`, result or Failure), each index once.

        Raises WorkerDied if the worker is lost; any other exception ends the run.
        """
        ...


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Request]):
    key: tuple
    request: Request
    future: asyncio.Future
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Seat(Generic[Request]):
    """A worker and what it has not handed back yet."""

    worker: Worker
    calls: int = 0
    tickets: set[_Ticket[Request]] = field(default_factory=set)


class Dispatcher(Generic[Request, Result]):
    """Spreads requests over workers by load; asks again when a worker dies: another, or, where
    lost workers come back, whoever is back first."""

    def __init__(
        self,
        workers: Sequence[Worker[Request, Result]],
        *,
        calls_per_worker: int = 1,
        timeout_s: float,
        max_attempts: int = 3,
    ) -> None:
        """`calls_per_worker`: calls under way at a worker before further requests wait here and
        gather; `timeout_s`: longest silence of a call, after which its worker counts as dead."""
        self._seats = [_Seat(worker) for worker in workers]
        self._num_awaited = 0
        """Seats whose workers are lost, and come back."""
        self._calls_per_worker = calls_per_worker
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._waiting: list[_Ticket] = []
        self._scheduled = False
        self._running: set[asyncio.Task] = set()
        self._last_loss = "there never was one"

    async def submit(self, key: tuple, request: Request) -> Result:
        """The result for one request; `key` orders it within its batch and must be unique."""
        loop = asyncio.get_running_loop()
        ticket = _Ticket(key, request, loop.create_future())
        self._enqueue([ticket])
        return await ticket.future

    def _enqueue(self, tickets: Sequence[_Ticket]) -> None:
        self._waiting.extend(tickets)
        if not self._scheduled:
            # Runs after every coroutine that is ready now, so their requests travel together.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._scheduled = False
        waiting = sorted((t for t in self._waiting if not t.future.done()), key=lambda t: t.key)
        self._waiting = waiting
        if not self._seats and not self._num_awaited:
            self._fail(waiting, f"no worker is left: {self._last_loss}")
            self._waiting = []
            return
        free = [seat for seat in self._seats if seat.calls < self._calls_per_worker]
        if not free or not waiting:
            return
        self._waiting = []
        shares: dict[int, list[_Ticket]] = {i: [] for i in range(len(free))}
        for ticket in waiting:
            i = min(shares, key=lambda i: (len(free[i].tickets) + len(shares[i]), i))
            shares[i].append(ticket)
        for i, share in shares.items():
            if share:
                self._run(self._serve(free[i], share), share)

    def _run(self, work: Coroutine[None, None, None], tickets: Sequence[_Ticket] = ()) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(partial(self._finished, tickets))

    def _finished(self, tickets: Sequence[_Ticket], task: asyncio.Task) -> None:
        """Hands an unforeseen error on to every coroutine that waits for this call, or, if that
        was none, for any."""
        self._running.discard(task)
        error = StageFailed("the call was cancelled") if task.cancelled() else task.exception()
        for ticket in tickets or self._waiting:
            if error is not None and not ticket.future.done():
                ticket.future.set_exception(error)

    async def _serve(self, seat: _Seat, tickets: list[_Ticket]) -> None:
        seat.calls += 1
        seat.tickets.update(tickets)
        try:
            await self._call(seat, tickets)
        except WorkerDied as death:
            self._retry_elsewhere(seat, tickets, str(death))
        except TimeoutError:
            cause = f"{seat.worker.name} said nothing for {self._timeout_s:g} s"
            self._retry_elsewhere(seat, tickets, cause)
        finally:
            seat.calls -= 1
            seat.tickets.difference_update(tickets)
            self._enqueue([])

    async def _call(self, seat: _Seat, tickets: Sequence[_Ticket]) -> None:
        async with asyncio.timeout(self._timeout_s) as silence:
            loop = asyncio.get_running_loop()
            async with aclosing(seat.worker.call([t.request for t in tickets])) as chunks:
                async for chunk in chunks:
                    silence.reschedule(loop.time() + self._timeout_s)
                    for index, result in chunk:
                        self._settle(tickets[index], result)
                        seat.tickets.discard(tickets[index])
        left = [t for t in tickets if not t.future.done()]
        if left:
            raise WorkerDied(f"{seat.worker.name} left {len(left)} requests without an answer")

    @staticmethod
    def _settle(ticket: _Ticket, result: object) -> None:
        if ticket.future.done():  # its coroutine met a deadline meanwhile
            return
        if isinstance(result, Failure):
            ticket.future.set_exception(RequestFailed(result.reason))
        else:
            ticket.future.set_result(result)

    def give_up(self, worker: Worker[Request, Result], cause: str | None = None) -> None:
        """Asks this worker no more, unless it comes back; what it is doing now may still finish."""
        self._last_loss = cause or f"{worker.name} was given up"
        for seat in [seat for seat in self._seats if seat.worker is worker]:
            self._leave(seat)

    def _leave(self, seat: _Seat) -> None:
        if seat in self._seats:
            self._seats.remove(seat)
            if seat.worker.comes_back:
                self._num_awaited += 1
                self._run(self._await(seat.worker))

    async def _await(self, worker: Worker[Request, Result]) -> None:
        try:
            await worker.is_back()
        except WorkerDied as death:
            self._last_loss = str(death)
        else:
            self._seats.append(_Seat(worker))
        finally:
            self._num_awaited -= 1
            self._enqueue([])

    def _retry_elsewhere(self, seat: _Seat, tickets: Sequence[_Ticket], cause: str) -> None:
        self._last_loss = cause
        self._leave(seat)
        unfinished = [t for t in tickets if not t.future.done()]
        for ticket in unfinished:
            ticket.attempts += 1
        allowed = self._max_attempts if self._seats or self._num_awaited else 0
        self._fail([t for t in unfinished if t.attempts >= allowed], cause)
        self._enqueue([t for t in unfinished if t.attempts < allowed])

    @staticmethod
    def _fail(tickets: Sequence[_Ticket], cause: str) -> None:
        for ticket in tickets:
            if not ticket.future.done():
                ticket.future.set_exception(StageFailed(cause))
