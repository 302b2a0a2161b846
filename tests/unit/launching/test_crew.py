"""From when on workers that are lost come back."""

from types import SimpleNamespace

import pytest

from actors.group import Worker
from rlhf.collecting.dispatch import WorkerDied
from rlhf.config.run import ClusterConfig
from rlhf.launching.crew import supervise
from rlhf.watching.restarts import Restarts


def crew(*workers: Worker) -> SimpleNamespace:
    return SimpleNamespace(
        by_role={"policy": [], "rollout": list(workers)}, elastic=None, rollout=None
    )


def test_who_is_lost_before_ends_the_run_though_others_have_begun():
    config = SimpleNamespace(cluster=ClusterConfig())
    workers = [Worker("rollout-0", object()), Worker("rollout-1", object())]
    workers[1].lose(workers[1].handle, "rollout-1 on node 7: no memory")
    with pytest.raises(WorkerDied, match="rollout-1 on node 7: no memory"):
        supervise(config, crew(*workers), Restarts(["rollout"], [], lambda alert: None))
    assert workers[0].keeper is None
