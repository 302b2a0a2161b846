"""What a run is given, and its workers, of whom those that keep nothing come back one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.elastic import ElasticWorkers
from actors.group import Allotment, Worker, call_all
from actors.policy import PolicyService
from actors.rollout import RolloutService
from actors.supervision import Patience, Supervisor
from actors.weight_sync import ProbedPublisher
from rlhf.collecting.dispatch import WorkerDied
from rlhf.launching.configuration import Config
from rlhf.launching.inputs import Inputs
from rlhf.launching.judging import Judges
from rlhf.watching.restarts import Restarts
from rlhf.watching.tracking import RunTracker


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is given."""

    config: Config
    directory: Path
    inputs: Inputs
    allotted: Mapping[str, Allotment]
    tracker: RunTracker


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of a run, as they are asked."""

    policy: PolicyService
    rollout: RolloutService
    rollout_workers: list[Worker]
    judges: Judges
    reference: Sequence[Worker]
    publisher: ProbedPublisher
    initial_path: str
    """Where the weights from before round 0 are."""
    elastic: ElasticWorkers | None = None
    """Rollout workers that come and go with nodes, if there may be such."""

    @property
    def by_role(self) -> dict[str, Sequence[Worker]]:
        return {
            "policy": self.policy.ranks,
            "rollout": self.rollout_workers,
            "reference": self.reference,
            **self.judges.workers,
        }


def supervise(config: Config, crew: Crew, restarts: Restarts) -> None:
    """From now on, workers that are lost come back; before, what cannot start is wrong.

    Raises WorkerDied if one of a role is lost, whose others have begun without it.
    """
    cluster = config.cluster
    if not cluster.max_restarts:
        return
    timeout_s = cluster.call_timeout_s
    patience = Patience(cluster.max_restarts, cluster.start_timeout_s, cluster.silence_s)

    async def bring_rollout(worker: Worker) -> None:
        if config.algorithm.samples_initial_policy:
            await call_all([worker], "load_initial", crew.initial_path, timeout_s=timeout_s)
        await crew.publisher.bring(worker, timeout_s)

    async def bring_reference(worker: Worker) -> None:
        await call_all([worker], "load", crew.initial_path, timeout_s=timeout_s)

    async def bring_judge(worker: Worker) -> None:
        """It needs no more than to be ready."""

    bring = {"rollout": bring_rollout, "reference": bring_reference}
    for role, workers in crew.by_role.items():
        if role == "policy" or not workers or workers[0].keeper:
            continue
        if dead := [worker for worker in workers if worker.cause is not None]:
            raise WorkerDied(str(dead[0].cause), details=dead[0].details)
        elastic = crew.elastic if role == "rollout" else None
        keeper = Supervisor(
            role,
            workers,
            bring.get(role, bring_judge),
            patience,
            restarts,
            elastic.lets_go if elastic else None,
            crew.rollout.awake if role == "rollout" else None,
        )
        if elastic:
            elastic.keep_with(crew.by_role, keeper)
