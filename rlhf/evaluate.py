"""`python -m rlhf.evaluate run=DIR [overrides]`: measures a finished run's policy again.

Overrides are those of `python -m rlhf`, such as `eval.num_prompts=2000`, another `data` or another
`judge`; `model.path` measures another model the same way. Prints the numbers, and writes them to
`evaluation.json` in the run directory.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir

from actors.group import Allotment, wait_ready
from cluster.session import session
from cluster.shared_storage import require_shared
from rlhf.__main__ import checked, told
from rlhf.assembly import answering, make_evaluation, start_judge, start_rollout
from rlhf.config import CONF, Config, register_schemas
from rlhf.inputs import Inputs, read_inputs
from rlhf.overrides import as_hydra_reads, quoted
from rlhf.problems import InputError
from rlhf.roles import allotments, paths_by_role, roles
from rlhf.run_directory import OVERRIDES
from rlhf.stages import Metrics


def evaluate(directory: Path, overrides: list[str]) -> Metrics:
    """Starts rollout and judge workers around the run's final policy, and asks held-out prompts."""
    if not (directory / OVERRIDES).exists() or not (directory / "policy").is_dir():
        raise InputError([f"run={directory}: not the directory of a finished run (no policy/)"])
    _require_whole_data(overrides)
    stored = yaml.safe_load((directory / OVERRIDES).read_text())
    own = [quoted("run.dir", directory), quoted("model.path", directory / "policy")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", [*stored, *own, *overrides])
    config = checked(composed)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = read_inputs(config, Path(scratch))
    cluster = config.cluster
    asked = [replace(role, beside=None) for role in roles(config, inputs.model_path)]
    asked = [role for role in asked if role.name in ("rollout", "judge")]
    with session(cluster.address, asked, cluster.start_timeout_s) as reservation:
        plan = reservation.plan
        require_shared(plan, paths_by_role(config, directory, inputs.model_path))
        allotted = allotments(plan, reservation.seats, cluster.threads_per_worker)
        return asyncio.run(_evaluate(config, inputs, allotted, directory))


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
    judge, judge_workers = start_judge(config, allotted)
    await wait_ready([*rollout_workers, *judge_workers], config.cluster.start_timeout_s)
    answers = answering(config, inputs, rollout)
    num_prompts = min(config.eval.num_prompts, len(inputs.data.heldout))
    print(f"asking {num_prompts} held-out prompts, of {len(inputs.data.heldout)}")
    evaluation = make_evaluation(config, inputs, answers, judge, directory, begins=False)
    return await evaluation.evaluate()


def main() -> None:
    register_schemas()
    runs = [argument[4:] for argument in sys.argv[1:] if argument.startswith("run=")]
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("run=")]
    with told():
        if len(runs) != 1:
            raise InputError(["run=DIR: say which run, once: python -m rlhf.evaluate run=DIR"])
        if not runs[0]:
            raise InputError(["run=: is empty; name a run (is a variable of the shell unset?)"])
        directory = Path(expanduser(runs[0])).absolute()
        overrides = as_hydra_reads(overrides, Config)
        metrics = evaluate(directory, overrides)
    (directory / "evaluation.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for name, value in sorted(metrics.items()):
        print(f"{name:20} {value:.4f}")


if __name__ == "__main__":
    main()
