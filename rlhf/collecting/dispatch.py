"""One queue in front of the workers of a stage.

Coroutines ask for one thing at a time; workers are good at many things at once. The dispatcher
gathers the requests that became ready in the same turn of the event loop, sorts them by key (so
that batches, and with them the results, do not depend on timing), sends each worker one call, and
hands results back as they finish.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from rlhf.collecting.seats import Seat, Seats, Ticket
from rlhf.collecting.turns import PORTION, Turns
from rlhf.problems import RunFailed

CALLS_A_TURN = 16
"""Calls that begin before the event loop turns to others: each is packed for its way there."""

WAVE = 4096
"""Requests that are sent though more are just coming, where a worker has nothing to do."""

MAX_ATTEMPTS = 3
"""Workers that may be lost over one request, after which it is what they are lost by."""

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
    def cause(self) -> str | None:
        """Why it is lost, while it is, whoever found that out."""
        ...

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


class Dispatcher(Generic[Request, Result]):
    """Spreads requests over workers by load; asks again when a worker dies: another, or, where
    lost workers come back, whoever is back first."""

    def __init__(
        self,
        workers: Sequence[Worker[Request, Result]],
        *,
        calls_per_worker: int = 1,
        timeout_s: float,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """`calls_per_worker`: calls under way at a worker before further requests wait here and
        gather; `timeout_s`: longest silence of a call, after which its worker counts as dead."""
        self._seats: Seats[Request] = Seats(calls_per_worker)
        for worker in workers:
            self._seats.add(worker)
        self._num_awaited = 0
        """Seats whose workers are lost, and come back."""
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._waiting: list[Ticket] = []
        self._num_came = 0
        """Of those, since the last look at them."""
        self._scheduled = False
        self._answers = Turns()
        self._running: set[asyncio.Task] = set()
        self._last_loss = WorkerDied("there never was one")

    def add(self, worker: Worker[Request, Result]) -> None:
        """One more to ask."""
        self._seats.add(worker)
        self._look_soon()

    async def submit(self, key: tuple, request: Request) -> Result:
        """The result for one request; `key` orders it within its batch and must be unique."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(key, request, loop.create_future())
        self._enqueue([ticket])
        return await ticket.future

    async def submit_all(self, requests: Sequence[tuple[tuple, Request]]) -> list[Result]:
        """As `submit` of each key and request, in order, at less cost."""
        create = asyncio.get_running_loop().create_future
        tickets = [Ticket(key, request, create()) for key, request in requests]
        self._enqueue(tickets)
        return list(await asyncio.gather(*(ticket.future for ticket in tickets)))

    def _enqueue(self, tickets: Sequence[Ticket]) -> None:
        self._waiting.extend(tickets)
        self._num_came += len(tickets)
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._scheduled:
            # Runs after every coroutine that is ready now, so their requests travel together.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Sends what waits, unless more is just coming: what begins or wakes in portions.

        Tens of thousands take so long to begin that nobody is to be without work until then.
        """
        self._scheduled = False
        came, self._num_came = self._num_came, 0
        is_wave = len(self._waiting) >= WAVE and self._seats.one_is_idle()
        if came >= PORTION // 2 and not is_wave:
            self._look_soon()
        else:
            self._send_waiting()

    def _send_waiting(self) -> None:
        if not self._seats and not self._num_awaited:
            self._fail(self._waiting, self._last_loss, "no worker is left: ")
            self._waiting = []
            return
        if not self._waiting or self._seats.least_busy() is None:
            return
        waiting = sorted((t for t in self._waiting if not t.future.done()), key=lambda t: t.key)
        self._waiting = []
        shares: dict[Seat, list[Ticket]] = {}
        for ticket in waiting:
            shares.setdefault(self._seats.give(ticket), []).append(ticket)
        for i, seat in enumerate(sorted(shares, key=lambda seat: seat.number)):
            seat.calls.add(shares[seat][0])
            self._run(self._serve(seat, shares[seat], i // CALLS_A_TURN), shares[seat])

    def _run(self, work: Coroutine[None, None, None], tickets: Sequence[Ticket] = ()) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(partial(self._finished, tickets))

    def _finished(self, tickets: Sequence[Ticket], task: asyncio.Task) -> None:
        """Hands an unforeseen error on to every coroutine that waits for this call, or, if that
        was none, for any."""
        self._running.discard(task)
        error = StageFailed("the call was cancelled") if task.cancelled() else task.exception()
        for ticket in tickets or self._waiting:
            if error is not None and not ticket.future.done():
                ticket.future.set_exception(error)

    async def _serve(self, seat: Seat, tickets: list[Ticket], num_turns: int) -> None:
        """Begins after so many turns of the event loop."""
        try:
            for _ in range(num_turns):
                await asyncio.sleep(0)
            if seat.worker.cause is None:
                await self._call(seat, tickets)
            else:  # What has its place now is not yet where it was.
                self.give_up(seat.worker, seat.worker.cause)
                self._enqueue(tickets)
        except WorkerDied as death:
            self._retry_elsewhere(seat, tickets, death)
        except TimeoutError:
            cause = f"{seat.worker.name} said nothing for {self._timeout_s:g} s"
            self._retry_elsewhere(seat, tickets, WorkerDied(cause))
        finally:
            self._over(seat, tickets)

    async def _call(self, seat: Seat, tickets: Sequence[Ticket]) -> None:
        unanswered = set(range(len(tickets)))
        async with asyncio.timeout(self._timeout_s) as silence:
            loop = asyncio.get_running_loop()
            async with aclosing(seat.worker.call([t.request for t in tickets])) as chunks:
                async for chunk in chunks:
                    silence.reschedule(loop.time() + self._timeout_s)
                    for index, result in chunk:
                        await self._answers.next()
                        self._settle(tickets[index], result)
                        seat.tickets.discard(tickets[index])
                        self._seats.changed(seat)
                        unanswered.discard(index)
                    if not unanswered:  # what is left is to hear that it has ended
                        self._over(seat, tickets)
        left = [t for t in tickets if not t.future.done()]
        if left:
            raise WorkerDied(f"{seat.worker.name} left {len(left)} requests without an answer")

    def _over(self, seat: Seat, tickets: Sequence[Ticket]) -> None:
        """The worker has room for another call."""
        seat.calls.discard(tickets[0])
        seat.tickets.difference_update(tickets)
        self._seats.changed(seat)
        self._look_soon()

    @staticmethod
    def _settle(ticket: Ticket, result: object) -> None:
        if ticket.future.done():  # its coroutine met a deadline meanwhile
            return
        if isinstance(result, Failure):
            ticket.future.set_exception(RequestFailed(result.reason))
        else:
            ticket.future.set_result(result)

    def give_up(self, worker: Worker[Request, Result], cause: str | None = None) -> None:
        """Asks this worker no more, unless it comes back; what it is doing now may still finish."""
        self._last_loss = WorkerDied(cause or f"{worker.name} was given up")
        for seat in [seat for seat in self._seats if seat.worker is worker]:
            self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        if seat in self._seats:
            self._seats.remove(seat)
            if seat.worker.comes_back:
                self._num_awaited += 1
                self._run(self._await(seat.worker))

    async def _await(self, worker: Worker[Request, Result]) -> None:
        try:
            await worker.is_back()
        except WorkerDied as death:
            self._last_loss = death
        else:
            self._seats.add(worker)
        finally:
            self._num_awaited -= 1
            self._look_soon()

    def _retry_elsewhere(self, seat: Seat, tickets: Sequence[Ticket], cause: WorkerDied) -> None:
        self._last_loss = cause
        self._leave(seat)
        unfinished = [t for t in tickets if not t.future.done()]
        for ticket in unfinished:
            ticket.attempts += 1
        allowed = self._max_attempts if self._seats or self._num_awaited else 0
        self._fail([t for t in unfinished if t.attempts >= allowed], cause)
        self._enqueue([t for t in unfinished if t.attempts < allowed])

    @staticmethod
    def _fail(tickets: Sequence[Ticket], cause: WorkerDied, before: str = "") -> None:
        for ticket in tickets:
            if not ticket.future.done():
                failed = StageFailed(f"{before}{cause}", details=cause.details)
                ticket.future.set_exception(failed)
