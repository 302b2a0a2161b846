"""Runs on clusters whose nodes go and come in the middle of a round."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from commands import SMALL, finish, kill_worker, start, untimed
from forked import Forked
from pytest import approx
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from test_interrupted_run import until_round

from cluster import head, nursery
from rlhf.chaos.comparing import differences
from rlhf.chaos.striking import Broken
from rlhf.storage.checkpoint import UNFINISHED, newest_checkpoint
from rlhf.storage.store import read_metrics, round_files

pytestmark = [pytest.mark.faults, pytest.mark.thorough]
PREEMPTION = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
SETTINGS = [
    *SMALL,
    "warmup.steps=200",  # with less it is never right, and nothing is learnt
    "num_rounds=60",
    "run.checkpoint_every=5",
    "cluster.silence_s=10",
]


@pytest.fixture
def nodes(monkeypatch):
    """A head without workers, and three nodes with room for two each; of four, two may go."""
    monkeypatch.delenv(nursery.SOCKET)
    alone = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=alone)
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


def lose(cluster: Cluster, begun: Forked, directory: Path, name: str, when: str = "middle") -> int:
    """Kills the raylet of that worker's node, and with it the node's workers; returns how many
    rounds are done twice."""
    node = node_of(cluster, name)
    assert node is not None
    cluster.remove_node(node, allow_graceful=False)
    rounds = lowest = done(directory)
    begin = time.monotonic()
    while (now := done(directory)) <= rounds:
        assert begun.poll() is None and time.monotonic() < begin + 180, begun.communicate(1)
        lowest = min(lowest, now)
        time.sleep(0.05)
    back = f"going again after {time.monotonic() - begin:.1f} s, repeated {rounds - lowest}"
    print(f"node of {name}, {when}: {back}")
    return rounds - lowest


def done(directory: Path) -> int:
    """Rounds, of a running run."""
    return len(read_metrics(directory / "metrics.jsonl")) - 1


def until_moment(directory: Path, begun: Forked, when: str, rounds: int) -> None:
    """So many rounds are done, and weights are being published or a checkpoint is written."""
    deadline = time.monotonic() + 180
    while True:
        assert begun.poll() is None and time.monotonic() < deadline, begun.communicate(1)
        now = done(directory)
        is_now = {
            "publishing": len(round_files(directory)) > now,
            "saving": any((directory / "checkpoints").glob(UNFINISHED)),
        }.get(when, True)
        if now >= rounds and is_now:
            return
        time.sleep(0.001)


def drain(cluster: Cluster, node) -> None:
    """Tells Ray that it is about to go, as a cloud does."""
    client = GcsClient(address=cluster.address)
    deadline_ms = int(time.time() + 300) * 1000
    accepted, why = client.drain_node(node.node_id, PREEMPTION, "a test", deadline_ms)
    assert accepted, why


def test_a_run_goes_on_on_the_nodes_that_are_left(tmp_path, nodes):
    assert Broken(SETTINGS, tmp_path / "unbroken").through().code == 0
    directory = tmp_path / "run"
    in_memory = ["run.checkpoint_every=0", "run.memory_checkpoints=1"]  # of the driver's node
    begun = start(directory, *SETTINGS, *in_memory, "cluster=auto")
    until_round(directory, 8)
    assert lose(nodes, begun, directory, "PolicyRank") < 8  # and not from the beginning again
    nodes.add_node(num_cpus=2)
    lose(nodes, begun, directory, "RolloutWorker")
    output = finish(begun, timeout_s=300)
    assert "is started anew" in output and "Traceback" not in output
    assert not any(differences(tmp_path / "unbroken", directory).values())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("nodes") / "unbroken"
    assert Broken(SETTINGS, directory).through().code == 0
    return directory


@pytest.mark.parametrize("name", ["RolloutWorker", "JudgeWorker", "ReferenceWorker", "PolicyRank"])
def test_a_node_may_go_at_any_moment(tmp_path, nodes, unbroken, name):
    directory = tmp_path / "run"
    begun = start(directory, *SETTINGS, "cluster=auto")
    for when, rounds in (("first", 1), ("middle", 15), ("publishing", 30), ("saving", 43)):
        until_moment(directory, begun, when, rounds)
        lose(nodes, begun, directory, name, when)
        nodes.add_node(num_cpus=2)
    output = finish(begun, timeout_s=300)
    assert "is started anew" in output and "Traceback" not in output
    assert not any(differences(unbroken, directory).values())


def test_a_node_that_is_drained_is_left_and_nothing_is_done_twice(tmp_path, nodes):
    assert Broken(SETTINGS, tmp_path / "unbroken").through().code == 0
    directory = tmp_path / "run"
    begun = start(directory, *SETTINGS, "cluster=auto", "run.checkpoint_every=1000")
    until_round(directory, 8)
    drained = node_of(nodes, "PolicyRank")
    drain(nodes, drained)
    rounds = [len(read_metrics(directory / "metrics.jsonl"))]
    while begun.poll() is None and node_of(nodes, "PolicyRank") is drained:
        time.sleep(0.05)
        rounds.append(len(read_metrics(directory / "metrics.jsonl")))
    nodes.remove_node(drained, allow_graceful=False)
    output = finish(begun, timeout_s=300)
    assert "the node is drained" in output and "Traceback" not in output
    assert rounds == sorted(rounds)
    assert not any(differences(tmp_path / "unbroken", directory).values())


def last(directory: Path, name: str) -> float | None:
    """Of a running run, the newest value of a metric."""
    values = [record.get(name) for record in read_metrics(directory / "metrics.jsonl")]
    return values[-1] if values else None


def until_workers(directory: Path, begun: Forked, count: int) -> None:
    begin = time.monotonic()
    while last(directory, "cluster/rollout_workers") != count:
        assert begun.poll() is None and time.monotonic() < begin + 120, begun.communicate(1)
        time.sleep(0.05)
    rounds = len(read_metrics(directory / "metrics.jsonl"))
    print(f"{count} rollout workers after {time.monotonic() - begin:.1f} s, in round {rounds - 2}")


ENDLESS = [*SETTINGS, "num_rounds=100000", "run.checkpoint_every=0"]


def stopped(begun: Forked) -> str:
    begun.send_signal(signal.SIGTERM)
    output = finish(begun, code=143, timeout_s=120)
    assert "Traceback" not in output
    return output


def test_rollout_workers_come_with_a_node_and_leave_with_it(tmp_path, nodes):
    directory = tmp_path / "run"
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    # What is left has room for the four workers of a run.
    begun = start(directory, *ENDLESS, "cluster=auto", "rollout.max_workers=3")
    until_round(directory, 3)
    until_workers(directory, begun, 1)
    added = nodes.add_node(num_cpus=4)
    until_workers(directory, begun, 3)
    nodes.remove_node(added, allow_graceful=False)
    until_workers(directory, begun, 1)
    added = nodes.add_node(num_cpus=1)
    until_workers(directory, begun, 2)
    drain(nodes, added)
    until_workers(directory, begun, 1)
    assert last(directory, "cluster/restarts_rollout") == 0
    assert "it leaves, and 1 rollout workers go on" in stopped(begun)
    found = untimed(directory)
    other = start(tmp_path / "other", *ENDLESS, "cluster=auto")
    until_round(tmp_path / "other", len(found))
    stopped(other)
    expected = untimed(tmp_path / "other")[: len(found)]
    # Batches of another size round the log-probabilities that an engine reports otherwise, from
    # which nothing else is computed.
    entropies = [[one.pop("rollout/entropy", 0) for one in each] for each in (found, expected)]
    assert entropies[0] == approx(entropies[1])
    assert found == expected


def test_who_came_makes_room_for_one_whose_node_is_gone(tmp_path, nodes):
    """Six places, of which a run begins with four workers and adds two; two places go."""
    directory = tmp_path / "run"
    begun = start(directory, *ENDLESS, "run.checkpoint_every=5", "cluster=auto",
                  "rollout.max_workers=3")  # fmt: skip
    until_workers(directory, begun, 3)
    lose(nodes, begun, directory, "PolicyRank")
    output = stopped(begun)
    assert last(directory, "cluster/restarts_policy") == 1, output
    assert "makes room for one whose node is gone" in output


def head_of(begun: Forked) -> psutil.Process:
    """Of the Ray that a run has started."""
    below = psutil.Process(begun.pid).children(recursive=True)
    (head,) = (one for one in below if one.name() == "gcs_server")
    return head


def ends_with_what_it_has_learnt(directory: Path, begun: Forked, told: str) -> None:
    begin = time.monotonic()
    output = finish(begun, code=1, timeout_s=170)
    print(f"the head, {told}: ended after {time.monotonic() - begin:.1f} s")
    (line,) = (one for one in output.splitlines() if one.startswith("failed: "))
    assert "the head of the Ray cluster at" in line and told in line and "Traceback" not in output
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "failed"
    newest = newest_checkpoint(directory / "checkpoints")
    assert newest is not None and newest.state["num_rounds"] == summary["rounds"]


def lose_head(begun: Forked) -> Callable[[], subprocess.Popen]:
    """Kills the head of the Ray that a run has started; what starts it again where it was."""
    lost = head_of(begun)
    (port,) = {one.laddr.port for one in lost.net_connections() if one.status == "LISTEN"}
    words, environment, folder = lost.cmdline(), lost.environ(), lost.cwd()
    lost.kill()
    while lost.status() != psutil.STATUS_ZOMBIE:  # nobody waits for it, and its port is free now
        time.sleep(0.01)
    own = f"--gcs_server_port={port}"
    words = [own if word.startswith("--gcs_server_port=") else word for word in words]
    return partial(subprocess.Popen, words, env=environment, cwd=folder, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", [None, "RolloutWorker"])
def test_without_the_head_of_its_cluster_a_run_ends_in_one_line_with_what_it_has_learnt(
    tmp_path, name
):
    """Even if a worker is lost that cannot be started anew then."""
    directory = tmp_path / "run"
    begun = start(directory, *ENDLESS, "cluster.silence_s=4")
    until_round(directory, 3)
    lose_head(begun)
    if name is not None:
        kill_worker(name)
    ends_with_what_it_has_learnt(directory, begun, "has not answered for")


def test_a_head_that_was_started_again_and_has_kept_nothing_is_as_good_as_none(tmp_path):
    directory = tmp_path / "run"
    begun = start(directory, *ENDLESS, "cluster.silence_s=60")
    until_round(directory, 3)
    again = lose_head(begun)()
    try:
        ends_with_what_it_has_learnt(directory, begun, "was started again")
    finally:
        again.kill()
        again.wait()


@pytest.mark.parametrize(
    ("name", "role", "told"),
    [
        ("RolloutWorker", "rollout", "answers again, after"),
        ("PolicyRank", "policy", "waiting for the head"),
    ],
)
def test_a_head_that_comes_back_with_its_state_costs_nothing(
    tmp_path, monkeypatch, unbroken, name, role, told
):
    """Though it is away for longer than silence is borne otherwise, and a worker dies meanwhile,
    which is started anew once it is back."""
    monkeypatch.setenv("RAY_gcs_storage", "rocksdb")
    monkeypatch.setenv("RAY_gcs_storage_path", str(tmp_path / "kept"))
    monkeypatch.setenv(head.ENDS, "300")
    directory = tmp_path / "run"
    begun = start(directory, *SETTINGS)
    until_round(directory, 8)
    start_again = lose_head(begun)
    until_round(directory, done(directory) + 5)
    kill_worker(name)
    time.sleep(15)  # of a run whose cluster.silence_s is 10
    again = start_again()
    try:
        output = finish(begun, timeout_s=300)
    finally:
        again.kill()
        again.wait()
    assert told in output and "is started anew" in output and "Traceback" not in output
    assert json.loads((directory / "summary.json").read_text())["restarts"][role] == 1
    assert not any(differences(unbroken, directory).values())
