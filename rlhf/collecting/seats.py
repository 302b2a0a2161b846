"""Workers by how much each has to do."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")


@dataclass(slots=True, eq=False)
class Ticket(Generic[Request]):
    """One request, until it has its result."""

    key: tuple
    request: Request
    future: asyncio.Future
    attempts: int = 0


@dataclass(slots=True, eq=False)
class Seat(Generic[Request]):
    """A worker and what it has not handed back yet."""

    worker: Any
    number: int
    """In the order in which the workers came."""
    calls: set[Ticket[Request]] = field(default_factory=set)
    """The first ticket of each that is under way."""
    tickets: set[Ticket[Request]] = field(default_factory=set)


class Seats(Generic[Request]):
    """All seats, and quickly the one with the least to do.

    The heap has an entry for every free seat's present load, and others that are out of date and
    passed over: so neither a request nor an answer costs more where there are many workers.
    """

    def __init__(self, calls_per_worker: int) -> None:
        """A seat is free while it has fewer calls than that."""
        self._calls_per_worker = calls_per_worker
        self._seats: dict[int, Seat[Request]] = {}
        self._heap: list[tuple[int, int]] = []
        self._num_came = 0

    def __iter__(self) -> Iterator[Seat[Request]]:
        return iter(list(self._seats.values()))

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, seat: Seat[Request]) -> bool:
        return self._seats.get(seat.number) is seat

    def add(self, worker: Any) -> None:
        """A worker that has nothing to do."""
        seat = Seat(worker, self._num_came)
        self._seats[seat.number] = seat
        self._num_came += 1
        self.changed(seat)

    def remove(self, seat: Seat[Request]) -> None:
        del self._seats[seat.number]

    def changed(self, seat: Seat[Request]) -> None:
        """To be called whenever a seat has more or less to do."""
        if not self._is_free(seat):
            return
        if len(self._heap) > 64 + 4 * len(self._seats):
            self._heap = [(len(s.tickets), s.number) for s in self if self._is_free(s)]
            heapify(self._heap)
        heappush(self._heap, (len(seat.tickets), seat.number))

    def give(self, ticket: Ticket[Request]) -> Seat[Request]:
        """To the least busy seat, of which there must be one; returns it."""
        seat = self.least_busy()
        assert seat is not None
        seat.tickets.add(ticket)
        heapreplace(self._heap, (len(seat.tickets), seat.number))
        return seat

    def least_busy(self) -> Seat[Request] | None:
        """Of the free seats that with the fewest tickets, and of those the first; None if none is
        free."""
        while self._heap:
            load, number = self._heap[0]
            seat = self._seats.get(number)
            if seat and len(seat.tickets) == load and self._is_free(seat):
                return seat
            heappop(self._heap)
        return None

    def one_is_idle(self) -> bool:
        """Whether a worker has nothing to do."""
        seat = self.least_busy()
        return seat is not None and not seat.tickets

    def _is_free(self, seat: Seat[Request]) -> bool:
        return seat.number in self._seats and len(seat.calls) < self._calls_per_worker
