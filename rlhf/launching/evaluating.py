"""A finished run's policy, measured again."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from actors.group import Allotment, wait_ready
from cluster.session import session
from cluster.shared_storage import require_shared
from rlhf.functions.source import reading_once
from rlhf.launching.assembly import answering, make_evaluation, require_answers, start_rollout
from rlhf.launching.command_line import checked
from rlhf.launching.configuration import CONF, Config
from rlhf.launching.expecting import expect_workers
from rlhf.launching.inputs import Inputs, read_inputs
from rlhf.launching.judging import all_judges, start_judges
from rlhf.launching.overrides import quoted
from rlhf.launching.roles import allotments, paths_by_role, roles
from rlhf.models.loading import read_config
from rlhf.problems import InputError
from rlhf.stages import Metrics
from rlhf.storage.reading import read_yaml_list
from rlhf.storage.run_directory import OVERRIDES


@reading_once()
def evaluate(directory: Path, overrides: list[str]) -> Metrics:
    """Starts rollout and judge workers around the run's final policy, and asks held-out prompts."""
    if not (directory / OVERRIDES).exists() or not (directory / "policy").is_dir():
        raise InputError([f"run={directory}: not the directory of a finished run (no policy/)"])
    _require_whole_data(overrides)
    stored = read_yaml_list(directory / OVERRIDES, "put it back as the run wrote it")
    own = [
        quoted("run.dir", directory),
        quoted("model.path", directory / "policy"),
        "policy.lora_rank=0",  # its adapter has been merged in
        *_exported_dtype(directory / "policy"),
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", [*stored, *own, *overrides])
    config = checked(composed)
    expect_workers(config.cluster, config.placement)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = read_inputs(config, Path(scratch))
    require_answers(config, inputs, directory)
    cluster = config.cluster
    asked = [replace(role, beside=None) for role in roles(config, inputs.model_path)]
    needed = {"rollout", *(one.role for one in all_judges(config))}
    asked = [role for role in asked if role.name in needed]
    with session(cluster.address, asked, cluster.start_timeout_s) as reservation:
        plan = reservation.plan
        require_shared(plan, paths_by_role(config, directory, inputs.model_path))
        allotted = allotments(plan, reservation.seats, cluster.threads_per_worker)
        return asyncio.run(_evaluate(config, inputs, allotted, directory))


def _exported_dtype(policy: Path) -> list[str]:
    """An adapter is merged in fp32, of which bf16 would lose the most."""
    return ["model.dtype=float32"] if read_config(policy).dtype is torch.float32 else []


def _require_whole_data(overrides: Sequence[str]) -> None:
    keys = {override.partition("=")[0] for override in overrides}
    if "data.path" in keys and "data.heldout_path" not in keys:
        raise InputError(
            [
                "data.path: only its held-out share would be asked; say data.heldout_path=FILE to "
                "measure on all of a file, up to eval.num_prompts of it"
            ]
        )


async def _evaluate(
    config: Config, inputs: Inputs, allotted: Mapping[str, Allotment], directory: Path
) -> Metrics:
    rollout, rollout_workers = start_rollout(config, inputs.model_path, allotted["rollout"])
    judges = start_judges(config, allotted, rollout, inputs.model_path)
    await wait_ready([*rollout_workers, *judges.all_workers], config.cluster.start_timeout_s)
    answers = answering(config, inputs, rollout)
    num_prompts = min(config.eval.num_prompts, len(inputs.data.heldout))
    print(f"asking {num_prompts} held-out prompts, of {len(inputs.data.heldout)}")
    evaluation = make_evaluation(config, inputs, answers, judges, directory, begins=False)
    found = await evaluation.evaluate()
    # An average is over a run's own evaluations, of which this is none.
    return {name: value for name, value in found.items() if not name.endswith("_average")}
