"""A Ray of a run's own: what it does without, and that nothing of it is left."""

import http.client
import os
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import node, services

from cluster import own_ray

NAME = "/cluster/node_agents.py"


@ray.remote
def told(name: str) -> str | None:
    return os.environ.get(name)


@ray.remote
def has_file(name: str) -> bool:
    return Path(name).exists()


def agents(**environment: str) -> list[psutil.Process]:
    """Those of a Ray that has just begun, and works."""
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=environment or None,
    )
    own = told.options(runtime_env={"env_vars": {"OWN": "ä ${HOME} 1"}})
    assert ray.get(own.remote("OWN"), timeout=60) == f"ä {os.environ['HOME']} 1"
    assert ray.get(told.remote("OWN"), timeout=60) is None
    (raylet,) = [one for one in psutil.Process().children() if one.name() == "raylet"]
    found = [one for one in raylet.children() if NAME in " ".join(one.cmdline())]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_agents_of_a_node_are_small_and_end_with_it(is_killed):
    try:
        with own_ray.by_loopback(), own_ray.small():
            found = agents()
        assert all(one.memory_info().rss < 30 << 20 and not one.children() for one in found)
        # One serves nothing, the other makes environments, for who has the token of this Ray.
        none, (listens,) = sorted((one.net_connections() for one in found), key=len)
        assert none == []
        assert listens.laddr.ip == "127.0.0.1" and os.environ["RAY_AUTH_MODE"] == "token"
        for wrong in ({}, {"Authorization": "Bearer another"}):
            connection = http.client.HTTPConnection(*listens.laddr, timeout=30)
            connection.request("POST", "/get_or_create_runtime_env", b"", wrong)
            assert connection.getresponse().status == 401
        if is_killed:
            found[0].parent().kill()
            assert not psutil.wait_procs(found, timeout=20)[1]
    finally:
        ray.shutdown()
    assert not psutil.wait_procs(found, timeout=20)[1]


def test_what_they_do_not_make_is_made_by_rays_own(tmp_path):
    (tmp_path / "a_file").touch()
    try:
        with own_ray.by_loopback(), own_ray.small():
            found = agents(working_dir=str(tmp_path))
        assert ray.get(has_file.remote("a_file"), timeout=60)
        (theirs,) = [child for one in found for child in one.children()]
        lacks = told.options(runtime_env={"conda": "no_such_conda"})
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="conda"):
            ray.get(lacks.remote("OWN"), timeout=60)
    finally:
        ray.shutdown()
    assert not psutil.wait_procs([*found, theirs], timeout=30)[1]


@pytest.mark.parametrize("missing", [(node, "Node"), (services, own_ray.PYTHON)])
def test_another_ray_starts_as_it_likes(monkeypatch, missing):
    monkeypatch.delattr(*missing)
    before = parts()
    with own_ray.small():
        assert parts() == before


def parts() -> list[object]:
    return [getattr(place, name, None) for place, name, _ in own_ray.OURS]
