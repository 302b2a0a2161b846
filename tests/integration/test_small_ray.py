"""A Ray of a run's own where not all is installed that Ray may use."""

import psutil
import ray

from cluster import own_ray


@ray.remote
def double(value: int) -> int:
    return 2 * value


def raylet_commands() -> list[str]:
    """How they were started, agents among it."""
    found = [one.info["cmdline"] or [""] for one in psutil.process_iter(["cmdline"])]
    return [" ".join(words) for words in found if words[0].endswith("/raylet")]


def test_without_the_packages_of_its_agent_another_agent_is_started(monkeypatch):
    monkeypatch.setattr(own_ray, "OF_AGENTS", ("psutil", "no_such.package"))
    with own_ray.small():
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        session = ray._private.worker.global_worker.node.get_session_dir_path()
        (command,) = [one for one in raylet_commands() if session in one]
        assert "--minimal" in command
        assert ray.get(double.remote(2), timeout=60) == 4
    finally:
        ray.shutdown()


def test_with_them_nothing_is_amiss():
    assert own_ray._is_there() is None
