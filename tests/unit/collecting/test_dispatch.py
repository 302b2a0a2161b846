"""The queue in front of the workers: who travels with whom, and what becomes of whom."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.collecting.dispatch import (
    WAVE,
    Dispatcher,
    Failure,
    RequestFailed,
    StageFailed,
    WorkerDied,
)
from rlhf.collecting.turns import all_of

Script = Callable[[Sequence[str]], AsyncIterator[list[tuple[int, object]]]]
"""What a worker does with one call."""


class Fake:
    """A worker that plays a script per call, then answers everything at once."""

    comes_back = False
    cause: str | None = None
    lives: asyncio.Event
    """Set when it is back, if it comes back."""
    death: WorkerDied | None = None
    """Raised in place of its return."""

    async def is_back(self) -> None:
        await self.lives.wait()
        if self.death is not None:
            raise self.death

    def __init__(self, name: str, *scripts: Script) -> None:
        self.name = name
        self.calls: list[list[str]] = []
        self._scripts = list(scripts)

    async def call(self, requests: Sequence[str]) -> AsyncIterator[list[tuple[int, object]]]:
        self.calls.append(list(requests))
        script = self._scripts.pop(0) if self._scripts else all_at_once
        async for chunk in script(requests):
            yield chunk


async def all_at_once(requests):
    await asyncio.sleep(0)
    yield [(i, request.upper()) for i, request in enumerate(requests)]


def answering(*indices: int, then: Exception | asyncio.Event | None = None) -> Script:
    """Answers some requests; then dies of an error, or waits and answers the rest, or ends."""

    async def script(requests):
        yield [(i, requests[i].upper()) for i in indices]
        if isinstance(then, Exception):
            raise then
        if then is not None:
            await then.wait()
            yield [(i, r.upper()) for i, r in enumerate(requests) if i not in indices]

    return script


async def silent(requests):
    await asyncio.Event().wait()
    yield []


def dispatcher(*workers: Fake, **options) -> Dispatcher:
    return Dispatcher(workers, **{"timeout_s": 5.0, **options})


def start(asked: Dispatcher, requests: Sequence[str]) -> list[asyncio.Task]:
    return [asyncio.create_task(asked.submit((request,), request)) for request in requests]


async def turns(count: int = 20) -> None:
    """Lets everything happen that waits for nothing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def outcomes(running: Sequence[asyncio.Task]) -> list[object]:
    """Results, and errors by their text."""
    async with asyncio.timeout(5):
        found = await asyncio.gather(*running, return_exceptions=True)
    return [f"{type(one).__name__}: {one}" if isinstance(one, Exception) else one for one in found]


def lost(text: str = "w0 on node 7: killed") -> WorkerDied:
    return WorkerDied(text)


# --- who travels with whom ----------------------------------------------------------------------


@given(order=st.permutations("abcdef"))
def test_what_becomes_ready_together_travels_together_in_the_order_of_keys(order):
    async def run():
        worker = Fake("w0")
        results = await outcomes(start(dispatcher(worker), order))
        return worker.calls, results

    calls, results = asyncio.run(run())
    assert calls == [list("abcdef")]
    assert results == [request.upper() for request in order]


async def test_one_event_that_wakes_many_makes_one_call():
    worker, event = Fake("w0"), asyncio.Event()
    asked = dispatcher(worker)

    async def wait_and_ask(request):
        await event.wait()
        return await asked.submit((request,), request)

    running = [asyncio.create_task(wait_and_ask(request)) for request in "cab"]
    await turns()
    event.set()
    assert await outcomes(running) == ["C", "A", "B"]
    assert worker.calls == [["a", "b", "c"]]


async def test_what_comes_while_the_worker_is_busy_gathers_into_one_later_call():
    go = asyncio.Event()
    worker = Fake("w0", answering(then=go))
    asked = dispatcher(worker)
    running = []
    for request in "adcb":
        running += start(asked, request)
        await turns()
    assert worker.calls == [["a"]]
    go.set()
    assert await outcomes(running) == ["A", "D", "C", "B"]
    assert worker.calls == [["a"], ["b", "c", "d"]]


async def test_several_calls_at_a_worker_if_it_may_have_them():
    go = asyncio.Event()
    worker = Fake("w0", answering(then=go), answering(then=go), answering(then=go))
    asked = dispatcher(worker, calls_per_worker=2)
    running = []
    for request in "abcd":
        running += start(asked, request)
        await turns()
    assert worker.calls == [["a"], ["b"]]
    go.set()
    await outcomes(running)
    assert worker.calls == [["a"], ["b"], ["c", "d"]]


async def test_who_has_answered_everything_is_asked_before_the_call_has_ended():
    end = asyncio.Event()
    worker = Fake("w0", answering(0, then=end))
    asked = dispatcher(worker)
    assert await outcomes(start(asked, "a")) == ["A"]
    assert await outcomes(start(asked, "b")) == ["B"]
    assert worker.calls == [["a"], ["b"]]
    end.set()
    await turns()
    assert await outcomes(start(asked, "c")) == ["C"]


async def test_who_is_lost_as_its_call_ends_is_asked_no_more():
    end = asyncio.Event()

    async def dies_at_its_end(requests):
        yield [(0, "A")]
        await end.wait()
        raise lost()

    dying, other = Fake("w0", dies_at_its_end, silent), Fake("w1")
    asked = dispatcher(dying, other)
    assert await outcomes(start(asked, "a")) == ["A"]
    running = start(asked, "b")
    await turns()
    end.set()
    await turns()
    running += start(asked, "c")
    await turns()
    assert (dying.calls, other.calls) == ([["a"], ["b"]], [["c"]])
    assert running[1].result() == "C"
    running[0].cancel()


async def test_load_is_spread():
    workers = [Fake(f"w{i}") for i in range(3)]
    await outcomes(start(dispatcher(*workers), "abcdefg"))
    assert [worker.calls for worker in workers] == [[["a", "d", "g"]], [["b", "e"]], [["c", "f"]]]


async def test_load_is_what_has_not_come_back_yet():
    go = asyncio.Event()
    quick = Fake("w0", answering(0, 1, 2, then=go))
    slow = Fake("w1", answering(then=go))
    asked = dispatcher(quick, slow, calls_per_worker=8)
    running = start(asked, "abcdefgh")
    await turns()
    assert (quick.calls, slow.calls) == ([list("aceg")], [list("bdfh")])
    running += start(asked, "ijk")  # one is left at the first and four at the second
    await turns()
    assert (quick.calls[1:], slow.calls[1:]) == ([list("ijk")], [])
    go.set()
    await outcomes(running)


async def test_a_quick_request_goes_on_before_a_slow_one_of_the_same_call():
    go = asyncio.Event()
    running = start(dispatcher(Fake("w0", answering(1, then=go))), "ab")
    await turns()
    assert [task.done() for task in running] == [False, True]
    go.set()
    assert await outcomes(running) == ["A", "B"]


# --- what goes wrong ----------------------------------------------------------------------------


async def test_a_failure_is_its_own_request_s_alone():
    async def refuses_b(requests):
        yield [(0, "A"), (1, Failure("too long")), (2, "C")]

    worker = Fake("w0", refuses_b)
    assert await outcomes(start(dispatcher(worker), "abc")) == ["A", "RequestFailed: too long", "C"]
    assert len(worker.calls) == 1


async def test_a_failed_request_can_be_told_from_a_failed_stage():
    async def refuses(requests):
        yield [(0, Failure("too long"))]

    with pytest.raises(RequestFailed):
        await dispatcher(Fake("w0", refuses)).submit((), "a")


async def test_only_what_a_lost_worker_did_not_finish_is_asked_of_another():
    go = asyncio.Event()
    dying, other = Fake("w0", answering(0, then=lost())), Fake("w1", answering(then=go))
    running = start(dispatcher(dying, other), "abcdef")
    await turns()
    assert (dying.calls, other.calls) == ([["a", "c", "e"]], [["b", "d", "f"]])
    go.set()
    assert await outcomes(running) == ["A", "B", "C", "D", "E", "F"]
    assert (len(dying.calls), other.calls[1:]) == (1, [["c", "e"]])


async def test_a_lost_worker_is_asked_no_more():
    asked = dispatcher(dying := Fake("w0", answering(then=lost())), Fake("w1"))
    await outcomes(start(asked, "ab"))
    await outcomes(start(asked, "cd"))
    assert dying.calls == [["a"]]


async def test_a_call_that_ends_without_every_answer_is_a_loss():
    asked = dispatcher(Fake("w0", answering(0)), other := Fake("w1"))
    assert await outcomes(start(asked, "abcd")) == ["A", "B", "C", "D"]
    assert other.calls == [["b", "d"], ["c"]]


async def test_silence_is_a_loss():
    asked = dispatcher(quiet := Fake("w0", silent), Fake("w1"), timeout_s=0.02)
    assert await outcomes(start(asked, "abc")) == ["A", "B", "C"]
    assert quiet.calls == [["a", "c"]]


async def test_slow_is_not_silent():
    async def a_little_at_a_time(requests):
        for i, request in enumerate(requests):
            await asyncio.sleep(0.03)
            yield [(i, request.upper())]

    worker = Fake("w0", a_little_at_a_time)
    running = start(dispatcher(worker, timeout_s=0.25), "abcdefghijkl")
    assert await outcomes(running) == list("ABCDEFGHIJKL")
    assert len(worker.calls) == 1


@pytest.mark.parametrize(
    "script, cause",
    [(answering(then=lost()), "w0 on node 7: killed"), (silent, "w0 said nothing for 0.02 s")],
)
async def test_without_workers_the_stage_fails_and_says_why(script, cause):
    asked = dispatcher(Fake("w0", script), timeout_s=0.02)
    running = start(asked, "a")
    await turns()
    running += start(asked, "b")  # waits behind the call that is about to fail
    assert await outcomes(running) == [
        f"StageFailed: {cause}",
        f"StageFailed: no worker is left: {cause}",
    ]
    with pytest.raises(StageFailed, match=cause):
        await asked.submit(("c",), "c")


async def test_a_worker_that_is_given_up_finishes_and_is_asked_no_more():
    go = asyncio.Event()
    first, second = Fake("w0", answering(then=go)), Fake("w1")
    asked = dispatcher(first, second)
    running = start(asked, "ab")
    await turns()
    asked.give_up(first)
    go.set()
    running += start(asked, "cd")
    assert await outcomes(running) == ["A", "B", "C", "D"]
    assert (first.calls, second.calls) == ([["a"]], [["b"], ["c", "d"]])


@pytest.mark.parametrize("max_attempts, result", [(2, "StageFailed: w1 died"), (3, "A")])
async def test_a_request_that_outlives_its_workers_is_not_asked_for_ever(max_attempts, result):
    deadly = [Fake(f"w{i}", answering(then=lost(f"w{i} died"))) for i in range(2)]
    asked = dispatcher(*deadly, Fake("w2"), max_attempts=max_attempts)
    assert await outcomes(start(asked, "a")) == [result]
    assert await outcomes(start(asked, "b")) == ["B"]


async def test_a_coroutine_that_gave_up_waiting_disturbs_nobody():
    go = asyncio.Event()
    worker = Fake("w0", answering(then=go))
    asked = dispatcher(worker)
    under_way = start(asked, "abc")
    await turns()
    queued = start(asked, "de")
    await turns()
    under_way[1].cancel()
    queued[0].cancel()
    await turns()
    go.set()
    assert await outcomes([under_way[0], under_way[2], queued[1]]) == ["A", "C", "E"]
    assert worker.calls == [["a", "b", "c"], ["e"]]
    assert under_way[1].cancelled() and queued[0].cancelled()


async def test_a_coroutine_that_gave_up_is_not_missed_when_its_worker_is_lost():
    go = asyncio.Event()

    async def dies_later(requests):
        await go.wait()
        raise lost()
        yield []

    asked = dispatcher(Fake("w0", dies_later), other := Fake("w1"))
    running = start(asked, "abc")
    await turns()
    running[2].cancel()
    go.set()
    assert await outcomes(running[:2]) == ["A", "B"]
    assert other.calls == [["b"], ["a"]]


async def test_an_unforeseen_error_reaches_everyone_who_waits_for_that_call():
    broken = Fake("w0", answering(0, then=ValueError("a bug")))
    asked = dispatcher(broken, Fake("w1"))
    assert await outcomes(start(asked, "abcdef")) == [
        "A",
        "B",
        "ValueError: a bug",
        "D",
        "ValueError: a bug",
        "F",
    ]
    assert await outcomes(start(asked, "gh")) == ["G", "H"]  # a bug does not cost the worker


async def test_answers_outside_the_call_are_errors_and_second_answers_are_ignored():
    async def twice(requests):
        yield [(0, "first"), (0, "second")]

    async def beyond(requests):
        yield [(1, "whose?")]

    asked = dispatcher(Fake("w0", twice, beyond))
    assert await outcomes(start(asked, "a")) == ["first"]
    (error,) = await outcomes(start(asked, "a"))
    assert error.startswith("IndexError")


async def test_one_that_comes_later_has_its_share_from_then_on():
    asked = dispatcher(first := Fake("w0"))
    assert await outcomes(start(asked, "ab")) == ["A", "B"]
    asked.add(second := Fake("w1"))
    assert await outcomes(start(asked, "cd")) == ["C", "D"]
    assert (first.calls, second.calls) == ([["a", "b"], ["c"]], [["d"]])


def coming_back(name: str, *scripts: Script) -> Fake:
    worker = Fake(name, *scripts)
    worker.comes_back, worker.lives = True, asyncio.Event()
    return worker


async def test_what_a_lost_worker_was_asked_waits_until_it_is_back():
    worker = coming_back("w0", answering(0, then=lost()))
    asked = dispatcher(worker)
    running = start(asked, "abc")
    await turns()
    running += start(asked, "d")
    await turns()
    assert [task.done() for task in running] == [True, False, False, False]
    assert len(worker.calls) == 1
    worker.lives.set()
    assert await outcomes(running) == ["A", "B", "C", "D"]
    assert worker.calls == [["a", "b", "c"], ["b", "c", "d"]]


async def test_a_worker_whose_loss_was_noticed_elsewhere_is_not_asked_before_it_is_back():
    worker, other = coming_back("w0"), Fake("w1")
    asked = dispatcher(worker, other, max_attempts=1)
    worker.cause = "w0 on node 7: silent"
    assert await outcomes(start(asked, "ab")) == ["A", "B"]
    assert worker.calls == []
    worker.cause = None
    worker.lives.set()
    await turns()
    assert await outcomes(start(asked, "cd")) == ["C", "D"]
    assert worker.calls in ([["c"]], [["d"]])


async def test_where_such_a_worker_is_the_last_it_is_waited_for_or_named():
    worker = coming_back("w0")
    worker.cause = "w0 on node 7: silent"
    running = start(dispatcher(worker, max_attempts=1), "ab")
    await turns()
    assert worker.calls == []
    worker.cause = None
    worker.lives.set()
    assert await outcomes(running) == ["A", "B"]
    gone = Fake("w0")
    gone.cause = "w0 on node 7: silent"
    (error,) = await outcomes(start(dispatcher(gone), "a"))
    assert error == "StageFailed: no worker is left: w0 on node 7: silent"


async def test_the_others_are_asked_meanwhile_and_it_has_its_share_again_afterwards():
    worker, other = coming_back("w0", answering(then=lost())), Fake("w1")
    asked = dispatcher(worker, other)
    assert await outcomes(start(asked, "ab")) == ["A", "B"]
    assert await outcomes(start(asked, "cd")) == ["C", "D"]
    assert (worker.calls, other.calls) == ([["a"]], [["b"], ["a"], ["c", "d"]])
    worker.lives.set()
    await turns()
    assert await outcomes(start(asked, "ef")) == ["E", "F"]
    assert (worker.calls[1:], other.calls[3:]) == ([["f"]], [["e"]])


async def test_one_that_never_comes_back_fails_who_waited_for_it():
    worker = coming_back("w0", answering(then=lost()))
    worker.death = lost("w0 on node 7: killed (3 times)")
    running = start(dispatcher(worker), "ab")
    await turns()
    worker.lives.set()
    told = "StageFailed: no worker is left: w0 on node 7: killed (3 times)"
    assert await outcomes(running) == [told, told]


async def test_a_request_that_kills_every_worker_is_not_asked_for_ever():
    deaths = [answering(then=lost()) for _ in range(3)]
    worker = coming_back("w0", *deaths)
    worker.lives.set()
    asked = dispatcher(worker, max_attempts=3)
    assert await outcomes(start(asked, "a")) == ["StageFailed: w0 on node 7: killed"]
    assert await outcomes(start(asked, "b")) == ["B"]


async def test_what_is_known_of_the_last_loss_is_told_below_its_cause():
    raises = [answering(then=WorkerDied("w0: bug", details=f"line {n}")) for n in (1, 2, 3)]
    worker = coming_back("w0", *raises)
    worker.lives.set()
    with pytest.raises(StageFailed, match="w0: bug") as caught:
        await dispatcher(worker, max_attempts=3).submit(("a",), "a")
    assert caught.value.details == "line 3" and len(worker.calls) == 3


async def test_late_news_of_several_deaths_is_one_loss():
    go = asyncio.Event()

    async def dies_later(requests):
        await go.wait()
        raise lost()
        yield []

    worker = coming_back("w0", dies_later, dies_later)
    worker.lives.set()
    asked = dispatcher(worker, calls_per_worker=2)
    running = start(asked, "a")
    await turns()
    running += start(asked, "b")
    await turns()
    go.set()
    assert await outcomes(running) == ["A", "B"]
    assert await outcomes(start(asked, "c")) == ["C"]


# --- all together -------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    deaths=st.lists(st.integers(0, 300), max_size=2),
    calls_per_worker=st.integers(1, 3),
)
@settings(max_examples=40)
def test_a_thousand_requests_are_each_answered_once_with_their_own_result(
    seed, deaths, calls_per_worker
):
    """Three workers finish in any order; two of them may be lost on the way."""
    rng = random.Random(seed)
    answered: list[int] = []

    class Shuffling:
        comes_back, cause = False, None

        def __init__(self, name: str, lives: float) -> None:
            self.name = name
            self._lives = lives

        async def call(self, requests):
            left = list(range(len(requests)))
            rng.shuffle(left)
            while left:
                size = rng.randint(1, 100)
                chunk, left = left[:size], left[size:]
                await turns(rng.randint(0, 2))
                self._lives -= size
                if self._lives < 0:
                    raise lost(f"{self.name} died")
                answered.extend(requests[i] for i in chunk)
                yield [(i, -requests[i]) for i in chunk]

    async def one(asked: Dispatcher, request: int) -> int:
        await turns(rng.randint(0, 5))
        return await asked.submit((request,), request)

    async def run() -> list[int]:
        lives = [*deaths, inf, inf, inf][:3]
        workers = [Shuffling(f"w{i}", left) for i, left in enumerate(lives)]
        asked = Dispatcher(workers, calls_per_worker=calls_per_worker, timeout_s=5)
        async with asyncio.timeout(30):
            return await asyncio.gather(*(one(asked, request) for request in range(1000)))

    assert asyncio.run(run()) == [-request for request in range(1000)]
    assert sorted(answered) == list(range(1000))


# --- many ---------------------------------------------------------------------------------------


async def test_what_begins_in_portions_still_travels_together_and_is_spread():
    workers = [Fake(f"w{i}") for i in range(3)]
    asked = dispatcher(*workers)
    names = [f"{i:04d}" for i in range(1000)]
    assert await all_of(asked.submit((name,), name) for name in names) == names
    assert [worker.calls for worker in workers] == [[names[i::3]] for i in range(3)]


async def test_who_has_nothing_to_do_is_not_kept_waiting_until_tens_of_thousands_have_begun():
    begun = 0

    class Notes(Fake):
        async def call(self, requests):
            had_begun.append(begun)
            async for chunk in super().call(requests):
                yield chunk

    async def asks(name: str) -> str:
        nonlocal begun
        begun += 1
        return await asked.submit((name,), name)

    had_begun: list[int] = []
    answer = asyncio.Event()
    workers = [Notes(f"w{i}", answering(then=answer), answering(then=answer)) for i in range(2)]
    asked = dispatcher(*workers, calls_per_worker=16)
    names = [f"{i:05d}" for i in range(5 * WAVE)]
    everything = asyncio.create_task(all_of(asks(name) for name in names))
    while begun < len(names):
        await asyncio.sleep(0)
    await turns()
    answer.set()
    assert await everything == names
    first, rest = had_begun[:2], had_begun[2:]
    assert all(WAVE <= one < 2 * WAVE for one in first)
    assert rest == [len(names)] * 2  # as the others gather while there is something to do
    assert [[len(call) for call in worker.calls] for worker in workers] == [
        [WAVE // 2, 2 * WAVE]
    ] * 2


async def test_all_at_once_is_as_one_by_one():
    worker = Fake("w0")
    asked = dispatcher(worker)
    assert await asked.submit_all([((i,), name) for i, name in enumerate("cab")]) == ["C", "A", "B"]
    assert worker.calls == [["c", "a", "b"]]


async def test_the_failure_of_one_of_many_is_raised():
    async def refuses_b(requests):
        yield [(i, Failure("no") if one == "b" else one) for i, one in enumerate(requests)]

    asked = dispatcher(Fake("w0", refuses_b))
    with pytest.raises(RequestFailed, match="no"):
        await asked.submit_all([((i,), name) for i, name in enumerate("abc")])
