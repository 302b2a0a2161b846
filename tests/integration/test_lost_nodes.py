"""A run on a cluster of three nodes, one of which is gone in the middle of a round."""

import json
import time
from pathlib import Path

import psutil
import pytest
import ray
from commands import SMALL, finish, start
from forked import Forked
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from test_interrupted_run import until_round

from cluster import nursery
from rlhf.chaos.comparing import differences
from rlhf.chaos.striking import Broken
from rlhf.storage.checkpoint import newest_checkpoint
from rlhf.storage.store import read_metrics

pytestmark = [pytest.mark.faults, pytest.mark.thorough]
PREEMPTION = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
SETTINGS = [*SMALL, "num_rounds=60", "run.checkpoint_every=5", "cluster.silence_s=10"]


@pytest.fixture
def nodes(monkeypatch):
    """A head without workers, and three nodes with room for two each; of four, two may go."""
    monkeypatch.delenv(nursery.SOCKET)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def node_of(cluster: Cluster, name: str):
    """The node on which the worker of that class is."""
    for actor in cluster.global_state.actor_table(None, None, "ALIVE").values():
        if actor["ActorClassName"].startswith(name):
            found = actor["Address"]["NodeID"]
            return next(node for node in cluster.worker_nodes if node.node_id == found)
    return None


def lose(cluster: Cluster, begun: Forked, directory: Path, name: str) -> None:
    """Kills the raylet of that worker's node, and with it the node's workers."""
    node = node_of(cluster, name)
    assert node is not None
    cluster.remove_node(node, allow_graceful=False)
    rounds = len(read_metrics(directory / "metrics.jsonl"))
    begin = time.monotonic()
    while len(read_metrics(directory / "metrics.jsonl")) <= rounds:
        assert begun.poll() is None and time.monotonic() < begin + 180, begun.communicate(1)
        time.sleep(0.05)
    print(f"node of {name}: going again after {time.monotonic() - begin:.1f} s")


def test_a_run_goes_on_on_the_nodes_that_are_left(tmp_path, nodes):
    assert Broken(SETTINGS, tmp_path / "unbroken").through().code == 0
    directory = tmp_path / "run"
    begun = start(directory, *SETTINGS, "cluster=auto")
    until_round(directory, 8)
    lose(nodes, begun, directory, "PolicyRank")
    nodes.add_node(num_cpus=2)
    lose(nodes, begun, directory, "RolloutWorker")
    output = finish(begun, timeout_s=300)
    assert "is started anew" in output and "Traceback" not in output
    assert not any(differences(tmp_path / "unbroken", directory).values())


def test_a_node_that_is_drained_is_left_and_nothing_is_done_twice(tmp_path, nodes):
    assert Broken(SETTINGS, tmp_path / "unbroken").through().code == 0
    directory = tmp_path / "run"
    begun = start(directory, *SETTINGS, "cluster=auto", "run.checkpoint_every=1000")
    until_round(directory, 8)
    drained = node_of(nodes, "PolicyRank")
    client = GcsClient(address=nodes.address)
    deadline_ms = int(time.time() + 300) * 1000
    accepted, why = client.drain_node(drained.node_id, PREEMPTION, "a test", deadline_ms)
    assert accepted, why
    rounds = [len(read_metrics(directory / "metrics.jsonl"))]
    while begun.poll() is None and node_of(nodes, "PolicyRank") is drained:
        time.sleep(0.05)
        rounds.append(len(read_metrics(directory / "metrics.jsonl")))
    nodes.remove_node(drained, allow_graceful=False)
    output = finish(begun, timeout_s=300)
    assert "the node is drained" in output and "Traceback" not in output
    assert rounds == sorted(rounds)
    assert not any(differences(tmp_path / "unbroken", directory).values())


def test_without_the_head_of_its_cluster_a_run_ends_in_one_line_with_what_it_has_learnt(tmp_path):
    directory = tmp_path / "run"
    begun = start(directory, *SETTINGS, "num_rounds=100000", "cluster.silence_s=4")
    until_round(directory, 3)
    (head,) = (
        one
        for one in psutil.Process(begun.pid).children(recursive=True)
        if one.name() == "gcs_server"
    )
    head.kill()
    output = finish(begun, code=1, timeout_s=170)
    (line,) = (one for one in output.splitlines() if one.startswith("failed: "))
    assert "the head of the Ray cluster at" in line and "Traceback" not in output
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "failed"
    newest = newest_checkpoint(directory / "checkpoints")
    assert newest is not None and newest.state["num_rounds"] == summary["rounds"]
