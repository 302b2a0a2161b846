"""A Ray of a run's own: what it does without, and that nothing of it is left."""

import psutil
import pytest
import ray
from ray._private import node, services

from cluster import own_ray

NAME = "/cluster/node_agent.py"


@ray.remote
def double(value: int) -> int:
    return 2 * value


def agent() -> psutil.Process:
    """That of a Ray that has just begun, and works."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    assert ray.get(double.remote(2), timeout=60) == 4
    (raylet,) = [one for one in psutil.Process().children() if one.name() == "raylet"]
    (found,) = [one for one in raylet.children() if NAME in " ".join(one.cmdline())]
    return found


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_agent_of_a_node_serves_nothing_and_ends_with_it(is_killed):
    try:
        with own_ray.small():
            found = agent()
        assert found.memory_info().rss < 30 << 20
        assert found.net_connections() == []
        if is_killed:
            found.parent().kill()
            assert not psutil.wait_procs([found], timeout=20)[1]
    finally:
        ray.shutdown()
    assert not psutil.wait_procs([found], timeout=20)[1]


@pytest.mark.parametrize("missing", [(node, "Node"), (services, own_ray.PYTHON)])
def test_another_ray_starts_as_it_likes(monkeypatch, missing):
    monkeypatch.delattr(*missing)
    before = parts()
    with own_ray.small():
        assert parts() == before


def parts() -> list[object]:
    return [getattr(place, name, None) for place, name, _ in own_ray.OURS]
