"""A node that is gone with its workers, which then start on another that has room."""

import asyncio
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.group import Worker, start_workers, stop_workers, wait_ready
from actors.judge import JudgeService, JudgeWorker
from actors.supervision import Patience, Supervisor
from cluster.placement import Role
from cluster.session import session
from rlhf.judges.text import TextJudgeConfig
from rlhf.launching.roles import allotments
from rlhf.records import Completion, Message, Prompt
from rlhf.watching.restarts import Restarts

pytestmark = pytest.mark.faults


@pytest.fixture
def nodes():
    alone = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=alone)
    added = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, added
    ray.shutdown()
    cluster.shutdown()


def group(number: int) -> tuple[Prompt, list[Completion]]:
    prompt = Prompt(str(number), (Message("user", "?"),), (1,))
    return prompt, [Completion(prompt.id, 0, (1,), (0.0,), "text", False, 0)]


def test_a_worker_whose_node_is_gone_starts_where_there_is_room(nodes):
    cluster, added = nodes
    with session(cluster.address, [Role("judge", 1, 1, 0)], 60) as reservation:
        allotted = allotments(reservation.plan, reservation.seats, 1)["judge"]
        workers = start_workers(JudgeWorker, allotted, TextJudgeConfig().build)
        asyncio.run(loses_its_node(workers, cluster, added))
        stop_workers(workers)


async def loses_its_node(workers: list[Worker], cluster: Cluster, added: list[Any]) -> None:
    told = []
    await wait_ready(workers, 120)

    async def bring(_: object) -> None:
        """It needs no more than to be ready."""

    restarts = Restarts(["judge"], [], told.append)
    supervisor = Supervisor("judge", workers, bring, Patience(3, 120, 20), restarts)
    service = JudgeService(workers, timeout_s=300)
    first = await service.judge(*group(0))
    before = workers[0].node_id
    done = asyncio.Event()
    watching = asyncio.create_task(supervisor.watch(workers[0], done))
    gone = next(node for node in added if node.node_id == before)
    await asyncio.to_thread(cluster.remove_node, gone, allow_graceful=False)
    async with asyncio.timeout(120):
        while not told:  # its process outlives its node by a moment
            await asyncio.sleep(0.1)
        assert (await service.judge(*group(1))).scores == first.scores
    assert workers[0].node_id != before
    done.set()
    await watching
    assert len(told) == 1  # though Ray may not know by then that the node is gone
