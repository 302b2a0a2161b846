"""From a configuration and places for its workers to where the first round begins."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.group import Allotment, Worker, call_all, wait_ready
from actors.policy import PolicyService
from actors.rollout import RolloutService
from actors.usage import UsageMeter
from rlhf.launching.assembly import (
    RunStores,
    answering,
    make_anchors,
    make_collector,
    make_evaluation,
    make_publisher,
    make_schedule,
    start_policy,
    start_reference,
    start_rollout,
)
from rlhf.launching.cautions import cautions
from rlhf.launching.configuration import Config
from rlhf.launching.inputs import Inputs, open_feed
from rlhf.launching.judging import Judges, start_judges
from rlhf.launching.roles import served_lora, sleeps
from rlhf.learning.warmup import warm_up
from rlhf.loop import Run
from rlhf.stages import Publisher, Schedule, Stop
from rlhf.storage.checkpoint import Checkpoint, RoundCheckpoints
from rlhf.storage.ledger import Ledger
from rlhf.storage.run_directory import CHECKPOINTS
from rlhf.watching.tracking import RunTracker


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run begins with, or goes on from."""

    config: Config
    directory: Path
    """The run's."""
    inputs: Inputs
    checkpoint: Checkpoint | None
    tracker: RunTracker

    @property
    def first_round(self) -> int:
        return self.checkpoint.state["num_rounds"] if self.checkpoint else 0


@dataclass(frozen=True, slots=True)
class Workers:
    """Everything that runs in other processes."""

    policy: PolicyService
    rollout: RolloutService
    rollout_workers: list[Worker]
    judges: Judges
    reference: list[Worker]

    @classmethod
    def started(
        cls, config: Config, model_path: str, allotted: Mapping[str, Allotment]
    ) -> "Workers":
        """They have yet to load what they need."""
        policy = start_policy(config, allotted["policy"])
        rollout, workers = start_rollout(config, model_path, allotted["rollout"])
        judges = start_judges(config, allotted, rollout, model_path)
        return cls(policy, rollout, workers, judges, start_reference(config, allotted))

    @property
    def by_role(self) -> dict[str, Sequence[Worker]]:
        return {
            "policy": self.policy.ranks,
            "rollout": self.rollout_workers,
            "reference": self.reference,
            **self.judges.workers,
        }


async def prepare(
    beginning: Beginning, allotted: Mapping[str, Allotment], stop: Stop
) -> tuple[Run, PolicyService]:
    """Starts the workers, and brings everything to where the first round begins."""
    config, inputs, tracker = beginning.config, beginning.inputs, beginning.tracker
    for note in (*cautions(config), *inputs.notes(config.eval.num_prompts)):
        tracker.note(note)
    saved = beginning.checkpoint.directory if beginning.checkpoint else None
    ledger = Ledger(beginning.directory, saved)
    feed = open_feed(config, inputs, ledger, tracker.note)
    workers = Workers.started(config, inputs.model_path, allotted)
    tracker.note("starting workers")
    if (target := config.objective.largest_target) is not None:
        tracker.note(f"largest target of the objective: {target:g} nats")
    await _bring(workers, beginning)
    carrying = make_publisher(config, inputs, workers.policy, workers.rollout)
    publisher = UsageMeter(carrying, workers.by_role)
    await publisher.publish(beginning.first_round)
    schedule = make_schedule(config, inputs, feed, workers.policy)
    run = await _run(beginning, workers, publisher, schedule, ledger, stop)
    return run, workers.policy


async def _run(
    beginning: Beginning,
    workers: Workers,
    publisher: Publisher,
    schedule: Schedule,
    ledger: Ledger,
    stop: Stop,
) -> Run:
    """All that a run consists of; one that begins is evaluated first."""
    config, inputs, tracker = beginning.config, beginning.inputs, beginning.tracker
    directory, first_round = beginning.directory, beginning.first_round
    policy, rollout, judges = workers.policy, workers.rollout, workers.judges
    answers = answering(config, inputs, rollout)
    begins = first_round == 0
    evaluation = make_evaluation(config, inputs, answers, judges, directory, begins=begins)
    if begins:
        tracker.log_eval(0, await evaluation.evaluate())
    stores = RunStores.of(config, directory, first_round)
    collector = make_collector(
        config, inputs, schedule, rollout, answers, judges.judge, stores, ledger
    )
    checkpoints = RoundCheckpoints(
        directory / CHECKPOINTS,
        policy,
        ledger,
        keep=config.run.keep_checkpoints,
        state={"wandb_id": tracker.wandb_id},
    )
    return Run(
        collector=collector,
        anchors=make_anchors(config, policy, workers.reference),
        policy=policy,
        publisher=publisher,
        evaluation=evaluation,
        checkpoints=checkpoints,
        store=stores,
        tracker=tracker,
        stop=stop,
        first_round=first_round,
        num_rounds=config.num_rounds,
        max_staleness=config.max_staleness,
        evaluate_every=config.eval.every,
        checkpoint_every=config.run.checkpoint_every,
    )


# --- models to workers ---------------------------------------------------------------------------


async def _bring(workers: Workers, beginning: Beginning) -> None:
    """Everybody has its model, and the policy is where the run begins or goes on."""
    config, rollout = beginning.config, workers.rollout
    wait_s = config.cluster.start_timeout_s
    if sleeps(config):  # vLLM measures what is free of a GPU, so nothing else may start there
        await wait_ready(workers.rollout_workers, wait_s)
        await rollout.each("sleep")
    await workers.policy.connect()
    path = await _initial_policy(workers.policy, beginning)
    others = [*workers.rollout_workers, *workers.judges.all_workers]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_bring_policy(path, workers.policy, beginning))
        tasks.create_task(_bring_reference(path, workers.reference, wait_s))
        tasks.create_task(wait_ready(others, wait_s))
    if config.algorithm.samples_initial_policy:
        await rollout.each("load_initial", path)


async def _initial_policy(policy: PolicyService, beginning: Beginning) -> str:
    """Where the weights from before round 0 are; a warm start makes them, in a run's first life."""
    config, inputs = beginning.config, beginning.inputs
    if not config.warmup.steps:
        return inputs.model_path
    initial = beginning.directory / "initial_policy"
    if beginning.checkpoint is None:
        await policy.start(inputs.model_path, warm_up=True)
        await warm_up(
            policy,
            tuple(inputs.data.demonstrations.values()),
            config.warmup,
            config.seed,
            beginning.tracker.warmup,
        )
        await policy.export(initial)
    return str(initial)


async def _bring_policy(path: str, policy: PolicyService, beginning: Beginning) -> None:
    await policy.start(path)
    if (checkpoint := beginning.checkpoint) is not None:
        beginning.tracker.note(f"resuming from {checkpoint.directory}")
        await policy.load(checkpoint.directory)


async def _bring_reference(path: str, workers: Sequence[Worker], wait_s: float) -> None:
    await wait_ready(workers, wait_s)
    await call_all(workers, "load", path, timeout_s=wait_s)
