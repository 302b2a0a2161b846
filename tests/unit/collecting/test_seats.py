"""Who is asked next: the least busy of the free, and of those the first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.collecting.seats import Seats, Ticket

steps = st.lists(
    st.tuples(st.sampled_from(["give", "take", "call", "hang", "add", "leave"]), st.integers(0, 9))
)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), steps)
def test_whatever_happened_it_is_the_one_that_a_look_at_all_would_find(num, calls, steps):
    seats = Seats(calls)
    for i in range(num):
        seats.add(i)
    for step, which in steps:
        there = list(seats)
        seat = there[which % len(there)] if there else None
        if step == "add":
            seats.add(which)
        elif seat is None:
            continue
        elif step == "give" and seats.least_busy() is not None:
            expected = seats.least_busy()
            seat = seats.give(ticket := Ticket((which,), which, None))
            assert seat is expected and ticket in seat.tickets
        elif step == "take" and seat.tickets:
            seat.tickets.pop()
        elif step == "call":
            seat.calls.add(Ticket((), None, None))
        elif step == "hang":
            seat.calls = set(list(seat.calls)[1:])
        elif step == "leave":
            seats.remove(seat)
        if seat is not None:
            seats.changed(seat)
        free = [one for one in seats if len(one.calls) < calls]
        expected = min(free, key=lambda one: (len(one.tickets), one.number), default=None)
        assert seats.least_busy() is expected


def test_what_is_out_of_date_does_not_pile_up():
    seats = Seats(1)
    seats.add("w0")
    (seat,) = seats
    for _ in range(10_000):
        seats.changed(seat)
    assert len(seats._heap) < 100
