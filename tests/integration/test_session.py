"""Taking hold of a part of a Ray that is there already, and giving it back."""

import subprocess
import sys
import time

import pytest
import ray
from ray.util.placement_group import placement_group_table

from cluster import own_ray
from cluster.placement import Role
from cluster.session import find_nodes, session
from rlhf.problems import InputError


@pytest.fixture(scope="module", autouse=True)
def three_gpus():
    with own_ray.small():
        ray.init("local", num_cpus=8, num_gpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote
class Holder:
    def ready(self) -> list[int]:
        return ray.get_gpu_ids()


def hold(num_gpus: float, count: int) -> list:
    held = [Holder.options(num_gpus=num_gpus, num_cpus=0).remote() for _ in range(count)]
    ray.get([one.ready.remote() for one in held], timeout=60)
    return held


def states() -> set[str]:
    return {group["state"] for group in placement_group_table().values()}


def test_workers_that_share_a_seat_share_a_gpu_and_everything_is_given_back():
    roles = [Role("policy", 2, 1, 0.5), Role("rollout", 2, 1, 0.5, beside="policy")]
    with session(None, roles, timeout_s=30) as reservation:
        seats = reservation.seats
        actors = {
            role: [
                Holder.options(num_gpus=0.5, num_cpus=1, scheduling_strategy=seat).remote()
                for seat in seats[role]
            ]
            for role in ("policy", "rollout")
        }
        gpus = {
            role: ray.get([one.ready.remote() for one in own], timeout=60)
            for role, own in actors.items()
        }
        assert gpus["policy"] == gpus["rollout"]
        assert gpus["policy"][0] != gpus["policy"][1]
    assert states() == {"REMOVED"}
    (node,) = find_nodes(None, roles)
    assert node.free["GPU"] == 3


@pytest.mark.parametrize("num_gpus, count", [(1, 2), (0.6, 3)], ids=["taken", "free in parts only"])
def test_what_others_use_is_waited_for_until_the_deadline(num_gpus, count):
    held = hold(num_gpus, count)
    told: list[str] = []
    begun = time.monotonic()
    with (
        pytest.raises(InputError, match="others use the rest"),
        session(None, [Role("policy", 1 + (count == 2), 1, 1)], 2, told.append),
    ):
        pass
    assert time.monotonic() - begun < 20
    assert len(told) == 1 and told[0].startswith("waiting for what others use")
    for one in held:
        ray.kill(one)


def test_what_never_fits_is_refused_at_once():
    roles = [Role("policy", 4, 1, 1)]
    with pytest.raises(InputError, match="4 GPUs are needed"), session(None, roles, 60):
        pass


ENDING = """
import gc, sys, threading, time
import psutil, ray
from ray._private.worker import global_worker
from cluster.placement import Role
from cluster.session import session

@ray.remote
class Answers:
    def stream(self):
        yield 1

class Ring:
    pass

class Slow:
    def __del__(self):  # as what a thread collects may take long
        under_way.set()
        while global_worker.connected and time.monotonic() < begun + 1:
            time.sleep(0.0005)
        time.sleep(0.005)

def collect():
    while sys.argv[1] == "later" and global_worker.connected:
        time.sleep(0.0005)
    gc.collect()

def addresses():
    # At which this process and those that it has started listen.
    for one in (own := psutil.Process(), *own.children(recursive=True)):
        for found in one.net_connections("inet"):
            if found.status == psutil.CONN_LISTEN:
                yield found.laddr.ip

watcher, under_way = threading.Thread(target=collect), threading.Event()
with session(None, [Role("answers", 1, 1, 0)], 60):
    gc.disable()  # or the rings might be gone before
    actor = Answers.remote()
    for _ in range(20):
        ring = Ring()
        ring.own = ring
        if sys.argv[1] == "now":
            ring.slow = Slow()
        ring.answers = actor.stream.options(num_returns="streaming").remote()
        ray.get(next(ring.answers))
    del ring
    print(sorted(set(addresses())))
    print(*{word for one in psutil.Process().children(recursive=True) for word in one.cmdline()})
    begun = time.monotonic()
    watcher.start()
    if sys.argv[1] == "now":
        under_way.wait(60)
watcher.join()
print("as it should")
"""


@pytest.mark.parametrize("begun", ["now", "later"])
def test_a_collection_in_another_thread_does_not_end_the_process_while_ray_ends(begun):
    """Ray ends a process in which a stream of answers goes while Ray itself is going."""
    command = [sys.executable, "-c", ENDING, begun]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    listened, started, said = found.stdout.splitlines()
    assert (said, found.returncode) == ("as it should", 0), found.stderr
    # And all that while nobody could reach it from another machine.
    assert listened == "['127.0.0.1', '::ffff:127.0.0.1']"
    # Nor has anything been started that looks after clusters, or shows them.
    assert "/raylet/raylet" in started and "/runtime_env/agent/main.py" in started
    assert not [one for one in ("dashboard.py", "monitor.py", "setup_worker.py") if one in started]
