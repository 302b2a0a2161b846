"""Rollout workers that come and go with the cluster's nodes, as a run's configuration has them."""

from collections.abc import Callable
from dataclasses import replace

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.elastic import ElasticWorkers, Rules
from actors.group import Allotment, Worker, call_all, start_workers
from actors.rollout import RolloutService, RolloutWorker
from rlhf.launching.assembly import rollout_arguments
from rlhf.launching.configuration import Config


def make_elastic(
    config: Config,
    path: str,
    initial_path: str,
    allotment: Allotment,
    rollout: RolloutService,
    workers: list[Worker],
    tell: Callable[[str], None],
) -> ElasticWorkers | None:
    """Further ones like these `workers`, which start from the model in `path`, if there may be
    more."""
    if config.rollout.max_workers is None:
        return None
    timeout_s = config.cluster.start_timeout_s

    def start(node_id: str, number: int) -> Worker:
        seat = NodeAffinitySchedulingStrategy(node_id, soft=False)
        own = replace(allotment, count=1, seats=[seat])
        (worker,) = start_workers(
            RolloutWorker, own, *rollout_arguments(config, path), first=number
        )
        return worker

    async def prepare(worker: Worker) -> None:
        if config.algorithm.samples_initial_policy:
            await call_all([worker], "load_initial", initial_path, timeout_s=timeout_s)

    least, most = config.rollout.num_workers, config.rollout.max_workers
    rules = Rules(least, most, allotment.needs, start, prepare, timeout_s)
    return ElasticWorkers(rollout, workers, rules, tell)
