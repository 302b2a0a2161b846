"""A cluster of three nodes with token authentication: jobs as people submit, stop and resubmit.

The nodes are processes of this machine, each with a raylet of its own.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import httpx
import psutil
import pytest
from commands import SMALL, run, weights
from wandb_file import history

from rlhf.storage.checkpoint import newest_checkpoint
from rlhf.storage.store import read, read_metrics

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
QUIET = "tracking=disabled"
ENDLESS = [
    *(word for word in SMALL if word != QUIET),
    "num_rounds=1000",
    "run.checkpoint_every=1000",
    "warmup.steps=150",
    "policy.schedule=constant",
    "policy.lr_warmup_ratio=0",  # the same rates, however many rounds are asked for
]


def free_ports() -> Iterator[int]:
    """Different ones, below those that the system gives to whoever asks for any (from 32,768 on),
    so that no process of another test has one by the time it is bound."""
    ports = range(20_000, 32_000)
    for port in random.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            yield port


def until(holds: Callable[[], object], what: str, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)


@dataclass
class RayCluster:
    """One head with one CPU and two workers with two each; `ray` speaks to it with its token."""

    address: str
    dashboard: str
    env: dict[str, str]
    nodes: list[subprocess.Popen]
    hidden: Path
    """A folder in place of which the second worker sees an empty one of its own."""

    def ray(self, *words: str, code: int = 0, timeout_s: float = 400) -> str:
        done = subprocess.run(
            [str(BIN / "ray"), *words, "--address", self.dashboard],
            capture_output=True, text=True, cwd=ROOT, env=self.env, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, name: str, *overrides: str, wait: bool = True, code: int = 0) -> str:
        """The line of docs/clusters.md; returns what the job printed."""
        return self.job(name, "-m", "rlhf", *overrides, wait=wait, code=code)

    def job(self, name: str, *program: str, wait: bool = True, code: int = 0) -> str:
        submission = ["--submission-id", name, "--working-dir", ".",
                      "--runtime-env", "cluster/ray/job.yaml"]  # fmt: skip
        words = submission if wait else [*submission, "--no-wait"]
        command = ["--", "python", *program]
        done = subprocess.run(
            [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, *words, *command],
            capture_output=True, text=True, cwd=ROOT, env=self.env, timeout=400,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def workers(self) -> list[psutil.Process]:
        """Processes of our actors, and what they have started, on any node."""
        processes = [p for node in self.nodes for p in psutil.Process(node.pid).children(True)]
        return [p for p in processes if _is_ours(p)]


EVERYWHERE = """
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False)
place = ray.remote(lambda: None)
nodes = [On(node["NodeID"], soft=False) for node in ray.nodes()]
ray.get([place.options(scheduling_strategy=on).remote() for on in nodes])
"""
"""A job that has been on every node. As all nodes have one folder here, each of them removes what
another has unpacked of a checkout that is new to it, also the folder that a run is in."""


def _is_ours(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    names = ("PolicyRank", "RolloutWorker", "JudgeWorker", "ReferenceWorker", "-m rlhf")
    return any(name in words for name in names)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    logs = tmp_path_factory.mktemp("ray")
    port, dashboard = islice(free_ports(), 2)
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-that-nobody-else-has-0123456789",
        "RAY_worker_niceness": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    env.pop("PYTHONPATH", None)  # the code comes with the job
    made = RayCluster(
        f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", env, [], logs / "hidden"
    )
    made.hidden.mkdir()

    def start(name: str, *words: str, hides: bool = False) -> None:
        """Returns when the cluster has the node."""
        command = [str(BIN / "ray"), "start", "--block", "--dashboard-agent-listen-port=0", *words]
        if hides:
            mount = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, str(made.hidden), *command]
        log = logs / f"{name}.log"
        with log.open("w") as file:
            node = subprocess.Popen(command, stdout=file, stderr=file, env=env, cwd=logs)
        made.nodes.append(node)
        deadline = time.monotonic() + 180
        while alive() < len(made.nodes):
            ended = node.poll()
            assert ended is None and time.monotonic() < deadline, (
                f"{name}: {ended}\n{log.read_text()}"
            )
            time.sleep(0.2)

    def alive() -> int:
        """As `ray list nodes` counts them, which takes seconds of computing to say it."""
        try:
            told = httpx.get(
                f"{made.dashboard}/api/v0/nodes",
                headers={"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"},
                timeout=30,
            )
        except httpx.TransportError:  # nobody listens yet
            return 0
        nodes = told.json()["data"]["result"]["result"] if told.is_success else []
        return sum(node["state"] == "ALIVE" for node in nodes)

    head = [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
            "--num-cpus=1", "--disable-usage-stats"]  # fmt: skip
    try:
        start("head", "--head", *head)
        for i in (1, 2):
            hides = i == 2 and os.geteuid() == 0
            start(f"worker{i}", f"--address={made.address}", "--num-cpus=2", hides=hides)
        made.job("everywhere", "-c", EVERYWHERE)
        yield made
    finally:
        for node in reversed([one for one in made.nodes if one.poll() is None]):
            children = psutil.Process(node.pid).children(recursive=True)
            node.terminate()
            _, left = psutil.wait_procs(children, timeout=20)
            for process in left:
                process.kill()
            node.wait(20)


def test_a_job_is_stopped_with_a_checkpoint_and_goes_on_when_it_is_submitted_again(
    cluster, tmp_path
):
    unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
    cluster.submit("first", *ENDLESS, f"run.dir={stopped}", wait=False)
    metrics = stopped / "metrics.jsonl"
    until(lambda: len(read_metrics(metrics)) > 4, "three rounds are done")
    cluster.ray("job", "stop", "first")
    until(lambda: not cluster.workers(), "no actor and no process of the run is left", 30)
    assert "STOPPED" in cluster.ray("job", "status", "first").upper()
    assert json.loads((stopped / "summary.json").read_text())["status"] == "stopped"
    saved = newest_checkpoint(stopped / "checkpoints")
    assert saved is not None
    done = saved.state["num_rounds"]
    assert done >= 3 and done == len(read_metrics(metrics)) - 1
    # Ray ends wandb's own process together with the driver; its numbers are there nevertheless.
    newest = max((stopped / "wandb").glob("offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime)
    rounds = [row["round"] for row in history(newest) if "weights/version" in row]
    assert rounds == list(range(done))

    to_the_end = [*ENDLESS, f"num_rounds={done + 10}"]
    run(unbroken, *to_the_end, QUIET)  # on this machine alone
    output = cluster.submit("second", *to_the_end, f"run.dir={stopped}")
    assert f"resuming from {saved.directory}" in output
    places = {line.split()[0]: line for line in output.splitlines() if "×1" in line}
    node = {role: line.split("(")[1].split(")")[0] for role, line in places.items() if "(" in line}
    assert node["policy"] != node["rollout"], output
    expected, found = weights(unbroken), weights(stopped)
    assert expected.keys() == found.keys()
    assert all((found[name] == value).all() for name, value in expected.items())
    assert read(stopped).equals(read(unbroken))


def test_a_job_whose_run_directory_would_be_deleted_with_it_is_refused(cluster):
    output = cluster.submit("throwaway", *SMALL, code=1)
    assert "error: run.dir=" in output and "is inside the job's working directory" in output
    assert "starting workers" not in output


def test_a_run_directory_that_a_node_does_not_see_is_refused(cluster):
    if os.geteuid() != 0:
        message = "hiding a folder from a node needs the right to mount"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    output = cluster.submit("hidden", *SMALL, f"run.dir={cluster.hidden}/run", code=1)
    assert f"error: {cluster.hidden}/run: node " in output and "does not see it" in output
    assert "starting workers" not in output


def test_what_fits_on_no_node_is_refused_before_it_waits(cluster, tmp_path):
    output = cluster.submit(
        "large", *SMALL, f"run.dir={tmp_path}/run", "policy.num_ranks=4", code=1
    )
    assert (
        "error: placement: 7 CPUs are needed (policy 4, rollout 1, reference 1, judge 1) and 5"
        in output
    )


def test_without_its_token_the_cluster_is_not_joined(cluster, tmp_path):
    env = {name: value for name, value in cluster.env.items() if "RAY_AUTH" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "rlhf", *SMALL, f"run.dir={tmp_path}/run",
         f"cluster.address={cluster.address}"],
        capture_output=True, text=True, cwd=ROOT, env=env, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr and "Traceback" not in done.stderr
