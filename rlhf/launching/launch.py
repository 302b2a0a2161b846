"""One whole run, from its configuration to the run directory that it leaves behind."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from actors.group import Allotment, Worker, call_all, wait_ready
from actors.policy import PolicyService
from actors.usage import UsageMeter
from cluster.placement import make_plan, table
from cluster.session import find_nodes, session
from cluster.shared_storage import refuse_throwaway, require_shared
from rlhf.functions.source import reading_once
from rlhf.launching.assembly import (
    RunStores,
    answering,
    make_anchors,
    make_collector,
    make_evaluation,
    make_publisher,
    make_schedule,
    max_logprob_gap,
    require_transport,
    start_policy,
    start_reference,
    start_rollout,
)
from rlhf.launching.cautions import cautions
from rlhf.launching.checks import plain
from rlhf.launching.configuration import Config
from rlhf.launching.fingerprints import fingerprints, require_same
from rlhf.launching.inputs import Inputs, open_feed, read_inputs, try_out
from rlhf.launching.judging import start_judges
from rlhf.launching.roles import allotments, paths_by_role, roles, served_lora, sleeps
from rlhf.launching.stopping import StopRequest
from rlhf.learning.warmup import warm_up
from rlhf.loop import Run, train
from rlhf.problems import InputError, Stopped
from rlhf.stages import Metrics
from rlhf.storage.checkpoint import Checkpoint, RoundCheckpoints
from rlhf.storage.run_directory import (
    CHECKPOINTS,
    CONFIG,
    OVERRIDES,
    begin_or_resume,
    claimed,
    last_evaluation,
    last_of_finished,
    refuse_other_run,
)
from rlhf.storage.store import write_atomically
from rlhf.watching.metrics import LOWER_IS_BETTER, headline
from rlhf.watching.tracking import RunTracker


@reading_once()
def launch(config: Config, overrides: list[str], name: str | None = None) -> float:
    """One whole run of a checked configuration; returns its last evaluation as one number, for
    sweepers. `overrides` are kept in the run directory, for `rlhf.evaluate`; `name` is for wandb.
    A run that has finished already only says so."""
    directory = Path(config.run.dir).absolute()
    refuse_throwaway("run.dir", directory)
    cluster = config.cluster
    with claimed(directory):
        evaluation = last_of_finished(directory, config.run.resume, plain(config))
        if evaluation is not None:
            print(f"{directory}: the run there is finished; a larger num_rounds goes on")
            return objective_value(evaluation)
        checkpoint = begin_or_resume(directory, config.run.resume, plain(config))
        require_transport(config)
        try_out(config)
        inputs = read_inputs(config, directory)
        contents = fingerprints(plain(config))
        require_same(directory, contents, config.run.allow_changed, checkpoint is not None)
        wanted = roles(config, inputs.model_path)
        with (
            ThreadPoolExecutor(1) as beside,
            session(cluster.address, wanted, cluster.start_timeout_s) as reservation,
        ):
            plan = reservation.plan
            require_shared(plan, paths_by_role(config, directory, inputs.model_path))
            write_atomically(directory / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))
            write_atomically(directory / OVERRIDES, yaml.safe_dump(overrides))
            state = checkpoint.state if checkpoint else {}
            tracker = RunTracker(
                directory,
                config.tracking,
                plain(config),
                name or directory.name,
                config.num_rounds,
                state.get("num_rounds", 0),
                state.get("wandb_id"),
                max_logprob_gap(config),
            )
            tracker.note(plan.table())
            allotted = allotments(plan, reservation.seats, cluster.threads_per_worker)
            status = "failed"
            try:
                asyncio.run(_run(config, directory, inputs, checkpoint, allotted, tracker))
                status = "completed"
            except* (KeyboardInterrupt, Stopped):
                status = "stopped"
                raise
            finally:
                tracker.close(status)
                # While Ray ends: each takes a second.
                drawn = beside.submit(_draw, directory, max_logprob_gap(config))
        drawn.result()
        tracker.note(f"everything is in {directory}")
        return objective_value(last_evaluation(directory))


def _draw(directory: Path, max_logprob_gap: float) -> None:
    from rlhf.watching.curves import draw_curves  # matplotlib, which nothing before it needs

    draw_curves(directory / "metrics.jsonl", directory / "curves.png", max_logprob_gap)


@reading_once()
def show_plan(config: Config) -> None:
    """Prints which worker would go to which node and the memory that it needs at least, having
    checked what a run checks before it starts workers; the run's directory stays as it is."""
    directory = Path(config.run.dir).absolute()
    refuse_throwaway("run.dir", directory)
    if last_of_finished(directory, config.run.resume, plain(config)) is not None:
        print(f"{directory}: the run there is finished; nothing would be done")
        return
    refuse_other_run(directory, config.run.resume, plain(config))
    require_transport(config)
    try_out(config)
    with tempfile.TemporaryDirectory() as scratch:
        wanted = roles(config, read_inputs(config, Path(scratch)).model_path)
    for caution in cautions(config):
        print(caution)
    try:
        print(make_plan(wanted, find_nodes(config.cluster.address, wanted)).table())
    except InputError:
        print(table(wanted, {}))
        raise
    finally:
        print("per worker; memory without activations and what libraries take")


async def _run(
    config: Config,
    directory: Path,
    inputs: Inputs,
    checkpoint: Checkpoint | None,
    allotted: Mapping[str, Allotment],
    tracker: RunTracker,
) -> None:
    stop = StopRequest(tracker.note)
    with stop.listening():
        ready = _prepare(config, directory, inputs, checkpoint, allotted, tracker, stop)
        run, policy = await stop.unless_asked(ready)
        await train(run)
        await policy.export(directory / "policy")


async def _prepare(
    config: Config,
    directory: Path,
    inputs: Inputs,
    checkpoint: Checkpoint | None,
    allotted: Mapping[str, Allotment],
    tracker: RunTracker,
    stop: StopRequest,
) -> tuple[Run, PolicyService]:
    """Starts the workers, and brings everything to where the first round begins."""
    for note in (*cautions(config), *inputs.notes(config.eval.num_prompts)):
        tracker.note(note)
    feed = open_feed(config, inputs, directory, tracker.note)
    wait_s = config.cluster.start_timeout_s
    policy = start_policy(config, allotted["policy"])
    schedule = make_schedule(config, inputs, feed, policy)
    initial_path = None
    if served_lora(config) is not None and config.warmup.steps:
        # What rollout workers start from stays in them, so they start from what this leaves.
        initial_path = await _initial_policy(config, directory, inputs, checkpoint, policy, tracker)
        await policy.rest()
    path = initial_path or inputs.model_path
    rollout, rollout_workers = start_rollout(config, path, allotted["rollout"])
    judges = start_judges(config, allotted, rollout, inputs.model_path)
    reference_workers = start_reference(config, allotted)
    tracker.note("starting workers")
    if (target := config.objective.largest_target) is not None:
        tracker.note(f"largest target of the objective: {target:g} nats")
    if sleeps(config):  # vLLM measures what is free of a GPU, so nothing else may start there
        await wait_ready(rollout_workers, wait_s)
        await rollout.each("sleep")
    if initial_path is None:
        initial_path = await _initial_policy(config, directory, inputs, checkpoint, policy, tracker)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_bring_policy(initial_path, checkpoint, policy, tracker))
        tasks.create_task(_bring_reference(initial_path, reference_workers, wait_s))
        tasks.create_task(wait_ready([*rollout_workers, *judges.all_workers], wait_s))
    anchors = make_anchors(config, policy, reference_workers)
    if config.algorithm.samples_initial_policy:
        await rollout.each("load_initial", initial_path)

    first_round = checkpoint.state["num_rounds"] if checkpoint else 0
    workers = {
        "policy": policy.ranks,
        "rollout": rollout_workers,
        "reference": reference_workers,
        **judges.workers,
    }
    publisher = UsageMeter(make_publisher(config, inputs, policy, rollout), workers)
    await publisher.publish(first_round)
    stores = RunStores.of(config, directory, first_round)
    answers = answering(config, inputs, rollout)
    begins = first_round == 0
    evaluation = make_evaluation(config, inputs, answers, judges, directory, begins=begins)
    if begins:
        tracker.log_eval(0, await evaluation.evaluate())
    checkpoints = RoundCheckpoints(
        directory / CHECKPOINTS,
        policy,
        keep=config.run.keep_checkpoints,
        state={"wandb_id": tracker.wandb_id},
    )
    run = Run(
        collector=make_collector(config, inputs, schedule, rollout, answers, judges.judge, stores),
        anchors=anchors,
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
    return run, policy


async def _initial_policy(
    config: Config,
    directory: Path,
    inputs: Inputs,
    checkpoint: Checkpoint | None,
    policy: PolicyService,
    tracker: RunTracker,
) -> str:
    """Connects the ranks, and says where the weights from before round 0 are; a warm start makes
    them, in a run's first life."""
    await policy.connect()
    if not config.warmup.steps:
        return inputs.model_path
    initial = directory / "initial_policy"
    if checkpoint is None:
        await policy.start(inputs.model_path, warm_up=True)
        await warm_up(
            policy,
            tuple(inputs.data.demonstrations.values()),
            config.warmup,
            config.seed,
            tracker.warmup,
        )
        await policy.export(initial)
    return str(initial)


async def _bring_policy(
    initial_path: str, checkpoint: Checkpoint | None, policy: PolicyService, tracker: RunTracker
) -> None:
    """Puts the policy where the run begins or goes on."""
    await policy.start(initial_path)
    if checkpoint is not None:
        tracker.note(f"resuming from {checkpoint.directory}")
        await policy.load(checkpoint.directory)


async def _bring_reference(path: str, workers: Sequence[Worker], wait_s: float) -> None:
    await wait_ready(workers, wait_s)
    await call_all(workers, "load", path, timeout_s=wait_s)


def objective_value(evaluation: Metrics) -> float:
    """The one number of an evaluation that a sweep should raise."""
    name = headline(evaluation)
    if name is None:
        return float("nan")
    return -evaluation[name] if name in LOWER_IS_BETTER else evaluation[name]
