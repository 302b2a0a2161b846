"""Rollout workers that come with a node in mid-run, and leave with it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.elastic import ElasticPublisher, ElasticWorkers, Rules
from actors.group import Allotment, Worker, start_workers, stop_workers, wait_ready
from actors.rollout import RolloutService
from actors.supervision import Patience, Supervisor
from cluster import room
from rlhf.records import Prompt, Sampling
from rlhf.watching.restarts import Restarts

# Workers do not have the folder of tests among their modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.faults, pytest.mark.thorough]
ONE = Allotment("rollout", 1, 1, 0, 1)


class Echo:
    """A rollout worker that answers with the version of its weights and its node."""

    def __init__(self) -> None:
        self._version = -1

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def load(self, version: int) -> None:
        self._version = version

    async def serve(self, requests: Sequence[Any]) -> AsyncIterator[list[tuple[int, tuple]]]:
        yield [(i, (self._version, await self.ready())) for i in range(len(requests))]


class Elastic:
    """A worker on a node of its own, and others that come and go."""

    def __init__(self, most: int) -> None:
        self.workers = start_workers(Echo, ONE)
        self.first = self.workers[0]
        self.rollout = RolloutService(self.workers, calls_per_worker=1, timeout_s=60)
        self.restarts = Restarts(["rollout"], [], lambda _: None)
        self.told: list[str] = []
        rules = Rules(1, most, ONE.needs, self._start, self._prepare, 60)
        self.elastic = ElasticWorkers(self.rollout, self.workers, rules, self.told.append)
        patience = Patience(3, 60, 4)
        keeper = Supervisor(
            "rollout", self.workers, self._load, patience, self.restarts, self.elastic.lets_go
        )
        self.elastic.keep_with({"rollout": self.workers}, keeper)
        self.publisher, self._version = ElasticPublisher(self, self.elastic), 0

    def _start(self, node_id: str, number: int) -> Worker:
        seat = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return start_workers(Echo, replace(ONE, seats=[seat]), first=number)[0]

    async def _prepare(self, worker: Worker) -> None:
        assert worker not in self.workers

    async def _load(self, worker: Worker) -> None:
        await worker.ask("load", self._version)

    async def publish(self, version: int) -> dict[str, float]:
        self._version = version
        await self.rollout.each("load", version)
        return {}

    async def until(self, count: int) -> None:
        """Publishes until there are so many workers."""
        async with asyncio.timeout(60):
            found = None
            while found != count:
                found = (await self.publisher.publish(self._version + 1))["cluster/rollout_workers"]
                await asyncio.sleep(0.1)

    async def ask(self, count: int) -> set[str]:
        """Nodes that have answered; all with the newest weights."""
        asked = [
            self.rollout.generate(Prompt(str(i), (), (1,)), Sampling(1, 1), i) for i in range(count)
        ]
        found = await asyncio.gather(*asked)
        assert {version for version, _ in found} == {self._version}
        return {node for _, node in found}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with room for one."""
    alone = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=alone)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@asynccontextmanager
async def started(most: int) -> AsyncIterator[Elastic]:
    one = Elastic(most)
    await wait_ready(one.workers, 60)
    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.elastic.watch(done))
        yield one
        done.set()
    stop_workers(one.workers)


def test_it_is_asked_once_it_has_the_weights_and_leaves_with_its_node(cluster):
    asyncio.run(comes_and_leaves(cluster))


async def comes_and_leaves(cluster: Cluster) -> None:
    async with started(most=2) as one:
        await one.until(1)
        for _ in range(2):
            added = cluster.add_node(num_cpus=3)
            async with asyncio.timeout(60):
                while not one.elastic._ready:
                    await asyncio.sleep(0.05)
            assert await one.ask(8) == {one.first.node_id}  # nothing was published yet
            await one.until(2)
            assert await one.ask(8) == {one.first.node_id, added.node_id}
            await asyncio.to_thread(cluster.remove_node, added, allow_graceful=False)
            assert not room.is_there(added.node_id)
            await one.until(1)  # its processes may outlive it by a moment
            assert await one.ask(8) == {one.first.node_id}
        assert one.restarts.metrics() == {"cluster/restarts_rollout": 0}
        told = [line.rpartition(" ")[2] for line in one.told]
        assert told == ["on"] * 4 and "it leaves, and 1 rollout workers go on" in one.told[1]


def test_the_last_who_came_makes_room_but_the_last_that_lives_does_not(cluster):
    asyncio.run(makes_room(cluster))


async def makes_room(cluster: Cluster) -> None:
    async with started(most=3) as one:
        cluster.add_node(num_cpus=2)
        await one.until(3)
        before = list(one.workers)
        one.elastic.make_room()
        assert one.workers == before[:2] and before[2].is_given_up
        one.first.cause = "lost"
        one.elastic.make_room()
        assert one.workers == before[:2]
        one.first.cause = None
