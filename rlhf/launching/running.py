"""A run, from the start of its workers to its end, however many of them are lost on the way.

Lost workers that keep nothing come back one by one (`actors.supervision`). With a rank of the
policy everything goes back to the newest checkpoint, of which the last may be in memory alone until
then: what follows is a run that is resumed, but for the other workers, which need not start again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from actors.elastic import ElasticPublisher
from actors.group import Worker, call_all, wait_ready
from actors.policy import PolicyService
from actors.usage import UsageMeter
from cluster import head, room
from rlhf.launching.assembly import (
    RunStores,
    answering,
    make_collector,
    make_evaluation,
    make_portions,
    make_publisher,
    make_schedule,
    start_policy,
    start_reference,
    start_rollout,
)
from rlhf.launching.cautions import cautions
from rlhf.launching.crew import Crew, Setting, supervise
from rlhf.launching.elastic import make_elastic
from rlhf.launching.garbage import look_between_rounds
from rlhf.launching.inputs import open_feed
from rlhf.launching.judging import start_judges
from rlhf.launching.lives import Lives, first_of
from rlhf.launching.moving import Mover
from rlhf.launching.stopping import StopRequest
from rlhf.launching.transports import served_lora, sleeps
from rlhf.learning.warmup import warm_up
from rlhf.loop import Run, train
from rlhf.problems import PolicyLost, RunFailed, Stopped
from rlhf.stages import Publisher
from rlhf.storage.checkpoint import Checkpoint
from rlhf.storage.disk import replaced_folder
from rlhf.storage.ledger import Ledger
from rlhf.storage.retention import best_by
from rlhf.storage.round_checkpoints import Remembered, RoundCheckpoints
from rlhf.storage.run_directory import CHECKPOINTS, verified
from rlhf.storage.threads import in_thread
from rlhf.watching.restarts import Counted, Restarts


@dataclass(frozen=True, slots=True)
class Lasting:
    """What outlives a loss of the policy, besides the other workers."""

    stop: StopRequest
    restarts: Restarts
    remembered: Remembered


async def run(setting: Setting, checkpoint: Checkpoint | None) -> None:
    """Goes on from the checkpoint, or begins, and leaves `policy/` when all rounds are done."""
    tracker = setting.tracker
    stop = StopRequest(tracker.note)
    with stop.listening():
        crew = await stop.unless_asked(_start(setting, checkpoint))
        look_between_rounds()
        roles = [role for role, workers in crew.by_role.items() if workers]
        restarts = Restarts(roles, tracker.records(), tracker.alert)
        lives = Lives(setting.config.cluster.max_restarts, checkpoint)
        share, most_bytes = setting.config.run.memory_checkpoints, room.for_copies()
        remembered = Remembered(share, most_bytes, tracker.note)
        lasting = Lasting(stop, restarts, remembered)
        while (cause := await _live(setting, crew, checkpoint, lasting)) is not None:
            await remembered.write(setting.directory / CHECKPOINTS)
            checkpoint = await in_thread(verified, setting.directory / CHECKPOINTS)
            rounds = max((line["round"] + 1 for line in tracker.records()), default=0)
            lives.begin(checkpoint, rounds, cause)
            restarts.begin("policy", "its group", str(cause), cause.details)
            tracker.set_back(checkpoint.state["num_rounds"] if checkpoint else 0)
            await stop.unless_asked(head.back(setting.config.cluster.silence_s, tracker.note))
            crew.policy.start_anew()


async def _live(
    setting: Setting, crew: Crew, checkpoint: Checkpoint | None, lasting: Lasting
) -> PolicyLost | None:
    """Until the run is done, or its policy is lost, which is what it returns then."""
    stop = lasting.stop
    failed: BaseExceptionGroup[RunFailed] | None = None
    interrupted: RunFailed | None = None
    done = asyncio.Event()
    try:
        if not crew.policy.is_connected:
            await stop.unless_asked(_bring_policy(setting, crew, checkpoint))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(crew.policy.watch(done))
            silence_s, move = setting.config.cluster.silence_s, Mover(crew.by_role, stop)
            tasks.create_task(
                head.watch(done, silence_s, stop.interrupt, move.from_node, setting.tracker.note)
            )
            begun = await stop.unless_asked(_begin(setting, crew, checkpoint, lasting))
            for worker in (worker for role in crew.by_role.values() for worker in role):
                if worker.keeper is not None:
                    tasks.create_task(worker.keeper.watch(worker, done))
            if crew.elastic is not None:
                tasks.create_task(crew.elastic.watch(done))
            await train(begun)
            with replaced_folder(setting.directory / "policy") as unfinished:
                await crew.policy.export(unfinished)
            done.set()
    except* RunFailed as error:
        failed = error
    except* Stopped:
        interrupted = stop.interrupted()
        if interrupted is None:
            raise
    if isinstance(interrupted, PolicyLost):
        return interrupted
    if interrupted is not None:
        raise interrupted
    if failed is None:
        return None
    # Whatever has failed, and whoever noticed first, a dead rank is the cause.
    if lost := await crew.policy.loss():
        return lost
    if raised := failed.split(PolicyLost)[0]:
        return first_of(raised)
    raise failed


async def _start(setting: Setting, checkpoint: Checkpoint | None) -> Crew:
    """Starts the workers, and brings all but the rollout workers to where the first round
    begins."""
    config, inputs, tracker = setting.config, setting.inputs, setting.tracker
    allotted = setting.allotted
    for note in (*cautions(config), *inputs.notes(config.eval.num_prompts)):
        tracker.note(note)
    wait_s = config.cluster.start_timeout_s
    policy = start_policy(config, allotted["policy"])
    initial_path = None
    if served_lora(config) is not None and config.warmup.steps:
        # What rollout workers start from stays in them, so they start from what this leaves.
        initial_path = await _initial_policy(setting, checkpoint, policy)
        await policy.rest()
    path = initial_path or inputs.model_path
    rollout, rollout_workers = start_rollout(config, path, allotted["rollout"])
    judges = start_judges(config, allotted, rollout, inputs.model_path)
    reference = start_reference(config, allotted)
    tracker.note("starting workers")
    if (target := config.objective.largest_target) is not None:
        tracker.note(f"largest target of the objective: {target:g} nats")
    if sleeps(config):  # vLLM measures what is free of a GPU, so nothing else may start there
        await wait_ready(rollout_workers, wait_s)
        await rollout.sleep()
    if initial_path is None:
        initial_path = await _initial_policy(setting, checkpoint, policy)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_load_policy(setting, policy, initial_path, checkpoint))
        tasks.create_task(_bring_reference(initial_path, reference, wait_s))
        tasks.create_task(wait_ready([*rollout_workers, *judges.all_workers], wait_s))
    if config.algorithm.samples_initial_policy:
        await rollout.each("load_initial", initial_path)
    publisher = make_publisher(config, inputs, policy, rollout)
    elastic = make_elastic(
        config, path, initial_path, allotted["rollout"], rollout, rollout_workers, tracker.note
    )
    return Crew(
        policy, rollout, rollout_workers, judges, reference, publisher, initial_path, elastic
    )


async def _begin(
    setting: Setting, crew: Crew, checkpoint: Checkpoint | None, lasting: Lasting
) -> Run:
    """Brings the rollout workers to where the first round begins, and the rest together."""
    config, inputs, directory = setting.config, setting.inputs, setting.directory
    first_round = checkpoint.state["num_rounds"] if checkpoint else 0
    await crew.publisher.publish(first_round)
    supervise(config, crew, lasting.restarts)
    ledger = Ledger(directory, checkpoint.directory if checkpoint else None)
    feed = open_feed(config, inputs, ledger, setting.tracker.note)
    schedule = make_schedule(config, inputs, feed, crew.policy)
    stores = RunStores.of(config, directory, first_round)
    answers = answering(config, inputs, crew.rollout)
    begins = first_round == 0
    evaluation = make_evaluation(config, inputs, answers, crew.judges, directory, begins=begins)
    if begins:
        setting.tracker.log_eval(0, await evaluation.evaluate())
    judge = crew.judges.judge
    publisher: Publisher = UsageMeter(crew.publisher, crew.by_role)
    if crew.elastic is not None:
        publisher = ElasticPublisher(publisher, crew.elastic)
    return Run(
        collector=make_collector(
            config, inputs, schedule, crew.rollout, answers, judge, stores, ledger
        ),
        portions=make_portions(config, crew.policy, crew.reference),
        policy=crew.policy,
        publisher=Counted(publisher, lasting.restarts),
        evaluation=evaluation,
        checkpoints=RoundCheckpoints(
            directory / CHECKPOINTS,
            crew.policy,
            ledger,
            keep=config.run.keep_checkpoints,
            state={"wandb_id": setting.tracker.wandb_id},
            best=best_by(directory / "metrics.jsonl", config.run.keep_best),
            remembered=lasting.remembered,
        ),
        store=stores,
        tracker=setting.tracker,
        stop=lasting.stop,
        first_round=first_round,
        num_rounds=config.num_rounds,
        max_staleness=config.max_staleness,
        evaluate_every=config.eval.every,
        checkpoint_every=config.run.checkpoint_every,
    )


async def _initial_policy(
    setting: Setting, checkpoint: Checkpoint | None, policy: PolicyService
) -> str:
    """Connects the ranks, and says where the weights from before round 0 are; a warm start makes
    them, in a run's first life."""
    config, inputs = setting.config, setting.inputs
    await policy.connect()
    if not config.warmup.steps:
        return inputs.model_path
    initial = setting.directory / "initial_policy"
    if checkpoint is None:
        await policy.start(inputs.model_path, warm_up=True)
        await warm_up(
            policy,
            inputs.data.demonstrations,
            config.warmup,
            config.seed,
            setting.tracker.warmup,
        )
        await policy.export(initial)
    return str(initial)


async def _bring_policy(setting: Setting, crew: Crew, checkpoint: Checkpoint | None) -> None:
    """A new group of ranks, to where the run goes on."""
    await crew.policy.connect()
    await _load_policy(setting, crew.policy, crew.initial_path, checkpoint)


async def _load_policy(
    setting: Setting, policy: PolicyService, initial_path: str, checkpoint: Checkpoint | None
) -> None:
    await policy.start(initial_path)
    if checkpoint is not None:
        setting.tracker.note(f"resuming from {checkpoint.directory}")
        await policy.load(checkpoint.directory)


async def _bring_reference(path: str, workers: Sequence[Worker], wait_s: float) -> None:
    await wait_ready(workers, wait_s)
    await call_all(workers, "load", path, timeout_s=wait_s)
