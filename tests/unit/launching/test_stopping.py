"""A request to stop: what it interrupts, and what it lets end."""

import asyncio
import os
import signal

import pytest

from rlhf.launching.stopping import StopRequest
from rlhf.problems import PolicyLost, Stopped


@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_is_a_request_and_told_once(one, signals_are_heard):
    told: list[str] = []
    stop = StopRequest(told.append)
    with stop.listening():
        for _ in range(2):
            os.kill(os.getpid(), one)
            await asyncio.sleep(0.01)
    assert len(told) == 1
    assert await stop.comes_before(asyncio.Future())


async def test_what_nohup_has_ignored_stays_ignored():
    told: list[str] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(told.append).listening():
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.01)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert told == []


async def test_work_that_ends_first_gives_its_result():
    stop = StopRequest(print)

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await stop.unless_asked(work()) == 7
    assert not await stop.comes_before(asyncio.ensure_future(work()))


async def test_work_that_fails_first_raises_its_own_error():
    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await StopRequest(print).unless_asked(work())


async def test_a_request_ends_work_that_has_not_ended():
    stop = StopRequest(print)
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Future()
        finally:
            ended.set()

    waiting = asyncio.create_task(stop.unless_asked(work()))
    await began.wait()
    stop.ask()
    with pytest.raises(Stopped):
        await waiting
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_request_that_has_come_comes_before_what_is_done_already():
    stop = StopRequest(lambda text: None)
    done: asyncio.Future[None] = asyncio.Future()
    done.set_result(None)
    assert not await stop.comes_before(done)
    stop.ask()
    assert await stop.comes_before(done)


def test_it_passes_through_what_goes_on_after_failures():
    assert not issubclass(Stopped, Exception)


async def test_a_run_that_is_interrupted_ends_at_the_boundary_and_may_go_on():
    said = []
    stop = StopRequest(said.append)
    stop.interrupt(lost := PolicyLost("policy-0: its node is drained"))
    stop.interrupt(PolicyLost("another"))
    assert await stop.comes_before(asyncio.get_running_loop().create_future())
    assert stop.interrupted() is lost and stop.interrupted() is None and said == []
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    assert not await stop.comes_before(done)


async def test_a_person_who_asks_meanwhile_is_obeyed():
    said = []
    stop = StopRequest(said.append)
    stop.interrupt(PolicyLost("policy-0: its node is drained"))
    stop.ask()
    stop.ask()
    assert stop.interrupted() is None and len(said) == 1
    assert await stop.comes_before(asyncio.get_running_loop().create_future())
