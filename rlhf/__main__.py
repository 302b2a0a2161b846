"""`python -m rlhf [overrides]`: composes the configuration, starts everything, trains."""

import asyncio
import os
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path

import hydra
import ray.exceptions
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actors.group import wait_ready
from actors.policy import PolicyService
from actors.weight_sync import WeightsDiffer
from cluster.session import session
from rlhf.assembly import (
    Inputs,
    make_collector,
    make_evaluation,
    make_publisher,
    max_logprob_gap,
    read_inputs,
    roles,
    start_anchors,
    start_judge,
    start_policy,
    start_rollout,
)
from rlhf.checkpoint import Checkpoint, RoundCheckpoints
from rlhf.checks import config_problems, plain
from rlhf.collecting import PromptsFailed
from rlhf.config import Config, register_schemas
from rlhf.curves import draw_curves
from rlhf.dispatch import RequestFailed, StageFailed, WorkerDied
from rlhf.loop import Run, train
from rlhf.problems import InputError
from rlhf.run_directory import CHECKPOINTS, CONFIG, OVERRIDES, begin_or_resume, claimed
from rlhf.stages import Metrics
from rlhf.store import PreferenceStore
from rlhf.tracking import RunTracker
from rlhf.warmup import warm_up

RUN_FAILURES = (
    WorkerDied,
    StageFailed,
    RequestFailed,
    PromptsFailed,
    WeightsDiffer,
    ray.exceptions.RayError,
)


def run(config: Config, overrides: list[str]) -> float:
    """One whole run; returns its last evaluation as one number, for sweepers."""
    if problems := config_problems(config):
        raise InputError(problems)
    directory = Path(config.run.dir).absolute()
    with claimed(directory):
        checkpoint = begin_or_resume(directory, config.run.resume, plain(config))
        inputs = read_inputs(config, directory)
        with session(config.cluster.address, roles(config)):
            (directory / CONFIG).write_text(yaml.safe_dump(plain(config), sort_keys=False))
            (directory / OVERRIDES).write_text(yaml.safe_dump(overrides))
            state = checkpoint.state if checkpoint else {}
            tracker = RunTracker(
                directory,
                config.tracking,
                plain(config),
                directory.name,
                config.num_rounds,
                state.get("num_rounds", 0),
                state.get("wandb_id"),
            )
            status = "failed"
            try:
                last = asyncio.run(_run(config, directory, inputs, checkpoint, tracker))
                status = "completed"
            except KeyboardInterrupt:
                status = "stopped"
                raise
            finally:
                tracker.close(status)
                draw_curves(
                    directory / "metrics.jsonl", directory / "curves.png", max_logprob_gap(config)
                )
        tracker.note(f"everything is in {directory}")
    return last.get("sampled_accuracy", last.get("score_mean", float("nan")))


async def _run(
    config: Config,
    directory: Path,
    inputs: Inputs,
    checkpoint: Checkpoint | None,
    tracker: RunTracker,
) -> Metrics:
    wait_s = config.cluster.start_timeout_s
    policy = start_policy(config, inputs)
    rollout, rollout_workers = start_rollout(config, inputs.model_path)
    judge, judge_workers = start_judge(config)
    started = ", ".join(f"{role.count} {role.name}" for role in roles(config))
    tracker.note(f"starting workers: {started}")
    await policy.connect()
    initial_path = await _bring_policy(config, directory, inputs, checkpoint, policy, tracker)
    anchors = await start_anchors(config, policy, initial_path)
    await wait_ready([*rollout_workers, *judge_workers], wait_s)

    first_round = checkpoint.state["num_rounds"] if checkpoint else 0
    publisher = make_publisher(config, inputs, policy, rollout)
    await publisher.publish(first_round)
    evaluation = LastKept(make_evaluation(config, inputs, rollout, judge))
    if first_round == 0:
        tracker.log_eval(0, await evaluation.evaluate())
    checkpoints = RoundCheckpoints(
        directory / CHECKPOINTS,
        policy,
        keep=config.run.keep_checkpoints,
        state={"wandb_id": tracker.wandb_id},
    )
    await train(
        Run(
            collector=make_collector(config, inputs, rollout, judge),
            anchors=anchors,
            policy=policy,
            publisher=publisher,
            evaluation=evaluation,
            checkpoints=checkpoints,
            store=PreferenceStore(directory),
            tracker=tracker,
            first_round=first_round,
            num_rounds=config.num_rounds,
            max_staleness=config.max_staleness,
            evaluate_every=config.eval.every,
            checkpoint_every=config.run.checkpoint_every,
        )
    )
    await policy.export(directory / "policy")
    inputs.tokenizer.save_pretrained(directory / "policy")
    return evaluation.last


async def _bring_policy(
    config: Config,
    directory: Path,
    inputs: Inputs,
    checkpoint: Checkpoint | None,
    policy: PolicyService,
    tracker: RunTracker,
) -> str:
    """Puts the policy where the run begins or goes on; returns where its initial weights are."""
    initial = directory / "initial_policy"
    if checkpoint is not None:
        tracker.note(f"resuming from {checkpoint.directory}")
        await policy.load(checkpoint.directory)
    elif config.warmup.steps:
        await warm_up(
            policy,
            inputs.data.train,
            inputs.data.demonstrations,
            config.warmup,
            config.seed,
            tracker.warmup,
        )
        await policy.export(initial)
        inputs.tokenizer.save_pretrained(initial)
    return str(initial) if initial.exists() else inputs.model_path


class LastKept:
    """An evaluation that remembers what it last found."""

    def __init__(self, evaluation) -> None:
        self._evaluation = evaluation
        self.last: Metrics = {}

    async def evaluate(self) -> Metrics:
        self.last = await self._evaluation.evaluate()
        return self.last


# --- the command line ----------------------------------------------------------------------------


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def hydra_main(composed: DictConfig) -> float:
    overrides = list(HydraConfig.get().overrides.task)
    return run(typed(composed), overrides)


def typed(composed: DictConfig) -> Config:
    """Plain dataclasses from Hydra's; raises InputError for what is missing."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise InputError([f"{key}: is required; add {key}=... to the command" for key in missing])
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return config


def hydra_problem(error: Exception) -> str:
    """One line of what Hydra or OmegaConf found wrong, with the nearest name where it has one."""
    text = str(error)
    if isinstance(error, MissingConfigException) and "Available options" in text:
        wanted = text.split("'")[3]
        group, _, name = wanted.rpartition("/")
        options = [line.strip() for line in text.split("\n") if line.startswith("\t")]
        options = [option for option in options if "provider=" not in option]
        near = get_close_matches(name, options, 1)
        hint = f"did you mean {group}={near[0]}? " if near else ""
        return f"{group}={name}: no such choice; {hint}there are {', '.join(options)}"
    cause = f" ({error.__cause__})".replace("\n", " ") if error.__cause__ else ""
    return text.split("\n")[0] + cause


def main() -> None:
    """Exit codes: 0 finished; 2 the input was wrong; 1 it failed while running."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function rather than Hydra's own exit
    register_schemas()
    try:
        hydra_main()
    except EXPECTED as error:
        sys.exit(report(error))


EXPECTED = (
    InputError,
    HydraException,
    OmegaConfBaseException,
    KeyboardInterrupt,
    BaseExceptionGroup,
    *RUN_FAILURES,
)
"""What `report` can put into words; anything else ends with Python's own traceback and a 1."""


def report(error: BaseException) -> int:
    """Tells a person what went wrong; returns the exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, InputError):
        problems = error.problems
    elif isinstance(error, HydraException | OmegaConfBaseException):
        problems = [hydra_problem(error)]
    elif isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    elif isinstance(error, RUN_FAILURES):
        print(f"failed: {error}", file=sys.stderr)
        return 1
    else:
        traceback.print_exception(error)
        return 1
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
