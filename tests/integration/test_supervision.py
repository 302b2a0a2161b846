"""Workers that are killed inside a Ray session: started anew, brought along, and asked again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    RayTaskError,
)

from actors.deaths import is_death
from actors.group import (
    Allotment,
    GivenLost,
    Worker,
    WorkerFailed,
    WorkerRaised,
    start_workers,
    stop_workers,
    wait_ready,
)
from actors.rollout import RolloutService
from actors.supervision import Patience, Supervisor
from actors.vllm_faults import EngineFailed
from rlhf.collecting.dispatch import Dispatcher, StageFailed, WorkerDied
from rlhf.problems import InputError, PolicyBroken, RunFailed
from rlhf.storage.disk import DiskFailed
from rlhf.watching.restarts import Restarts

# Workers do not have the folder of tests among their modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.faults]


class Brittle:
    """Answers with what it was brought and what it is asked, unless that kills it."""

    def __init__(self) -> None:
        self._brought = "nothing"
        self._sleeps = False

    async def sleep(self) -> None:
        self._sleeps = True

    async def wake(self) -> None:
        self._sleeps = False

    async def sleeps(self) -> bool:
        return self._sleeps

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def bring(self, what: str) -> None:
        self._brought = what

    async def serve(self, requests: Sequence[str]) -> AsyncIterator[list[tuple[int, str]]]:
        for i, request in enumerate(requests):
            first, _, flag = request.partition(" ")
            if first == "kill":
                while not Path(flag).exists():  # an answer is on its way for a moment
                    await asyncio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            if first == "slow" and not Path(flag).exists():  # and only once
                Path(flag).touch()
                time.sleep(4)
            if first == "hang" and not Path(flag).exists():
                Path(flag).touch()
                time.sleep(3600)
            if first == "raise" and not (flag and Path(flag).exists()):
                if flag:
                    Path(flag).touch()
                raise ValueError("what nobody\nforesaw")
            if request.startswith("engine"):
                raise EngineFailed("vLLM's engine has ended: it says why")
            yield [(i, f"{request} by one that was brought {self._brought}")]


class Watched:
    """Workers of a role, their supervisor, and what was told of them."""

    def __init__(
        self,
        workers: list[Worker],
        fails: int = 0,
        max_restarts: int = 3,
        silence_s: float = 60,
        timeout_s: float = 60,
        start_timeout_s: float = 300,
        never: str = "",
    ) -> None:
        """`never`: who cannot be brought along."""
        self.workers, self.told = workers, []
        self.restarts = Restarts(["role"], [], self.told.append)
        self._fails, self._never, self.brought = fails, never, 0
        patience = Patience(max_restarts, start_timeout_s, silence_s)
        supervisor = Supervisor("role", workers, self._bring, patience, self.restarts)
        self.dispatcher: Dispatcher[str, str] = Dispatcher(workers, timeout_s=timeout_s)
        self.done = asyncio.Event()
        self.watching = asyncio.gather(*(supervisor.watch(one, self.done) for one in workers))

    async def _bring(self, worker: Worker) -> None:
        self.brought += 1
        if self.brought <= self._fails or worker.name == self._never:
            raise RunFailed("what it was brought does not fit")
        await worker.ask("bring", "weights")

    async def ask(self, *requests: str) -> list[object]:
        asked = [self.dispatcher.submit((i,), one) for i, one in enumerate(requests)]
        async with asyncio.timeout(120):
            return list(await asyncio.gather(*asked, return_exceptions=True))

    def count(self) -> float:
        return self.restarts.metrics()["cluster/restarts_role"]


@asynccontextmanager
async def watched(count: int = 1, **how: Any) -> AsyncIterator[Watched]:
    workers = start_workers(Brittle, Allotment("role", count, 1, 0, 1))
    try:
        await wait_ready(workers, 300)
        role = Watched(workers, **how)
        yield role
        role.done.set()
        await role.watching
    finally:
        stop_workers(workers)


async def test_who_is_killed_comes_back_prepared_and_finishes_what_it_was_asked(tmp_path):
    async with watched() as role:
        assert await role.ask("a") == ["a by one that was brought nothing"]
        ask, flag = role.dispatcher.submit, tmp_path / "flag"
        async with asyncio.timeout(120):
            kills = asyncio.create_task(ask((1,), f"kill {flag}"))
            assert await ask((0,), "a") == "a by one that was brought nothing"  # of the same call
            flag.touch()
            with pytest.raises(StageFailed, match="role-0 on node"):
                await kills  # what kills everybody has three tries
        assert await role.ask("c") == ["c by one that was brought weights"]
        assert role.count() == len(role.told) == 3
        assert all("role-0 is started anew" in alert.text for alert in role.told)


async def test_an_engine_that_has_ended_is_a_death_though_its_actor_lives():
    async with watched() as role:
        process = await role.workers[0].ask("__ray_call__", _pid)
        (error,) = await role.ask("engine")
        assert "EngineFailed: vLLM's engine has ended: it says why" in str(error)
        assert await role.ask("c") == ["c by one that was brought weights"]
        assert await role.workers[0].ask("__ray_call__", _pid) != process


async def test_who_raises_what_nobody_foresaw_is_replaced_and_its_request_asked_again(tmp_path):
    async with watched() as role:
        process = await role.workers[0].ask("__ray_call__", _pid)
        request = f"raise {tmp_path / 'flag'}"
        assert await role.ask(request) == [f"{request} by one that was brought weights"]
        assert await role.workers[0].ask("__ray_call__", _pid) != process
        (alert,) = role.told
        cause = "ValueError: what nobody foresaw; role-0 is started anew (1 so far)"
        assert alert.text.endswith(cause) and "raise ValueError" in alert.details
        # Who raises it every time has three tries.
        (error,) = await role.ask("raise")
        assert isinstance(error, StageFailed) and role.count() == 4
        assert str(error).endswith("ValueError: what nobody foresaw")
        assert "raise ValueError" in error.details
        # Without restarts, one.
        await role.workers[0].is_back()
        role.workers[0].keeper = None
        (error,) = await role.ask("raise")
        assert isinstance(error, WorkerRaised) and "raise ValueError" in error.details
        assert role.count() == 4


async def killed(*workers: Worker) -> None:
    """All at once, and it is known."""
    for process in await asyncio.gather(*(one.ask("__ray_call__", _pid) for one in workers)):
        os.kill(process, signal.SIGKILL)
    async with asyncio.timeout(60):
        while any(one.cause is None for one in workers):
            await asyncio.gather(*(one.beat() for one in workers), return_exceptions=True)


def _pid(_: object) -> int:
    return os.getpid()


async def test_who_cannot_be_brought_along_is_tried_again_and_then_given_up():
    async with watched(fails=1) as role:
        os.kill(await role.workers[0].ask("__ray_call__", _pid), signal.SIGKILL)
        assert await role.ask("a") == ["a by one that was brought weights"]
        assert role.count() == 2 and "does not fit" in role.told[1].text
    async with watched(fails=9, max_restarts=2) as role:
        os.kill(await role.workers[0].ask("__ray_call__", _pid), signal.SIGKILL)
        (error,) = await role.ask("a")
        assert isinstance(error, StageFailed)
        assert "what it was brought does not fit (started anew 2 times in a row" in str(error)
        assert "cluster.max_restarts=2" in str(error)


async def test_those_who_are_lost_together_all_come_back():
    async with watched(count=3, max_restarts=1) as role:
        await killed(*role.workers)
        async with asyncio.timeout(120):
            await asyncio.gather(*(one.is_back() for one in role.workers))
        assert role.count() == len(role.told) == 3


async def test_who_never_comes_along_is_given_up_and_told_of_beside_others_that_answer():
    async with watched(count=2, max_restarts=2, never="role-1") as role:
        await killed(role.workers[1])
        number = 0
        async with asyncio.timeout(120):
            while not role.workers[1].is_given_up:
                number += 1
                (found,) = await role.ask(str(number))
                assert found == f"{number} by one that was brought nothing"
        titles = [alert.title for alert in role.told]
        assert titles == ["role-1 was lost", "role-1 was lost", "role-1 is gone"]
        assert "does not fit (started anew 2 times in a row" in role.told[2].text


async def test_who_lives_and_hangs_is_replaced_once_another_would_have_been_ready(tmp_path):
    async with watched(timeout_s=1, start_timeout_s=8) as role:
        request = f"hang {tmp_path / 'flag'}"
        assert await role.ask(request) == [f"{request} by one that was brought weights"]
        (alert,) = role.told
        assert "role-0 lives, and was not ready again within 8 s" in alert.text


async def test_who_shares_a_gpu_starts_in_no_turn_but_its_own():
    workers = start_workers(Brittle, Allotment("rollout", 2, 1, 0, 1))
    service = RolloutService(workers, calls_per_worker=1, timeout_s=60)
    restarts = Restarts(["rollout"], [], lambda alert: None)

    async def bring(worker: Worker) -> None:
        await worker.ask("bring", "weights")

    patience = Patience(3, 300, 60)
    Supervisor("rollout", workers, bring, patience, restarts, None, service.awake)
    try:
        await wait_ready(workers, 300)
        first = workers[0].handle
        await service.sleep()
        os.kill(await workers[0].ask("__ray_call__", _pid), signal.SIGKILL)
        while workers[0].cause is None:
            await service.each("sleeps")
        for _ in range(30):
            assert await service.each("sleeps") == {"rollout-1": True}
        assert workers[0].handle is first
        await service.wake()
        await workers[0].is_back()
        assert await service.each("sleeps") == {"rollout-0": False, "rollout-1": False}

        # In its own turn, which does not end while it is on its way.
        os.kill(await workers[0].ask("__ray_call__", _pid), signal.SIGKILL)
        while workers[0].cause is None:
            await service.each("sleeps")
        await service.sleep()
        assert await service.each("sleeps") == {"rollout-0": True, "rollout-1": True}
        assert restarts.metrics()["cluster/restarts_rollout"] == 2
    finally:
        stop_workers(workers)


async def test_who_is_stopped_is_found_in_seconds_though_its_calls_have_hours():
    async with watched(silence_s=2, timeout_s=3600) as role:
        os.kill(await role.workers[0].ask("__ray_call__", _pid), signal.SIGSTOP)
        assert await role.ask("a") == ["a by one that was brought weights"]
        assert role.count() == 1 and "cluster.silence_s" in role.told[0].text


async def test_a_long_call_that_is_alive_is_left_alone(tmp_path):
    async with watched(silence_s=1, timeout_s=3600) as role:
        (found,) = await role.ask(f"slow {tmp_path / 'flag'}")
        assert str(found).endswith("brought nothing") and role.count() == 0


async def test_who_was_slow_is_asked_again_once_it_answers(tmp_path):
    async with watched(timeout_s=1) as role:
        (found,) = await role.ask(f"slow {tmp_path / 'flag'}")
        assert str(found).endswith("brought nothing") and role.count() == 0
        assert await role.ask("a") == ["a by one that was brought nothing"]


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        OutOfMemoryError("the node's memory is full"),
        NodeDiedError("gone"),
        ObjectLostError("00", None, ""),
        OwnerDiedError("00", None, ""),
        OutOfDiskError("full"),
        RayTaskError("serve", "...", EngineFailed("ended")),
        RayTaskError("serve", "...", MemoryError()),
        RayTaskError("serve", "...", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        RayTaskError("update", "...", torch.OutOfMemoryError("CUDA out of memory")),
        RayTaskError("update", "...", torch.AcceleratorError("an illegal memory access")),
    ],
    ids=lambda error: type(getattr(error, "cause", None) or error).__name__,
)
def test_what_counts_as_a_death(error):
    assert is_death(error)
    worker = Worker("rollout-1", handle=object())
    assert isinstance(worker.failed(error, worker.handle), WorkerDied)
    assert worker.cause is not None and worker.cause.startswith("rollout-1 on node")


def test_an_error_of_our_own_is_none_and_neither_is_the_loss_of_what_it_was_given():
    worker = Worker("rollout-1", handle=object(), keeper=Nobody())
    for cause, told in (
        (DiskFailed("full"), DiskFailed),
        (PolicyBroken("lower the rate"), WorkerFailed),
        (InputError(["judge.path=a: lacks b"]), InputError),
        (OwnerDiedError("00", None, ""), GivenLost),
    ):
        error = RayTaskError("load_weights", "...", cause)
        assert not is_death(error)
        assert type(worker.failed(error, worker.handle)) is told
    assert worker.cause is None


class Nobody:
    """Where no worker is lost."""

    def bring_back(self, worker: Worker) -> None:
        raise AssertionError(worker.cause)


def test_news_of_an_actor_that_has_been_replaced_is_no_news():
    worker = Worker("rollout-1", handle=object())
    before, worker.handle = worker.handle, object()
    assert isinstance(worker.failed(ActorDiedError(), before), WorkerDied)
    assert worker.cause is None
