"""Every kind of worker that a configuration asks for, and what each of them needs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.group import Allotment
from cluster.placement import Plan, Role, format_bytes
from rlhf.launching.configuration import Config
from rlhf.launching.judging import all_judges, judge_roles
from rlhf.launching.memory import (
    DTYPE_BYTES,
    ModelShape,
    cache_bytes,
    causal_shape,
    frozen_memory,
    policy_memory,
    told,
)


def roles(config: Config, model_path: str) -> list[Role]:
    """The workers of a run of the model in `model_path`, in the order in which they get nodes."""
    gpu = 1.0 if config.placement.gpus else 0.0
    colocated = config.placement.colocated
    share = gpu / 2 if colocated else gpu
    shape = causal_shape("model.path", model_path)
    dtype = config.model.dtype
    trained = policy_memory(shape, dtype, config.policy)
    needed = [
        Role("policy", config.policy.num_ranks, 1, share, *told(trained)),
        _rollout(config, shape, share, "policy" if colocated else None),
    ]
    if needs_reference_workers(config):
        memory = frozen_memory(shape.num_weights, DTYPE_BYTES[dtype])
        needed.append(Role("reference", config.reference.num_workers, 1, gpu, *told(memory)))
    return [*needed, *judge_roles(config, gpu)]


def needs_reference_workers(config: Config) -> bool:
    """With LoRA the initial policy is the policy with its adapter off."""
    return "initial" in config.objective.anchor_names and not config.policy.lora_rank


def paths_by_role(config: Config, directory: Path, model_path: str) -> dict[str, list[Path]]:
    """What a role's workers read or write on their own nodes: the run's directory, a known game,
    and models that are folders rather than hub ids."""
    own = [directory, *_there([model_path])]
    judges = {one.role: _there(one.config.files()) for one in all_judges(config)}
    return {"policy": own, "rollout": own, "reference": own, **judges}


def _there(paths: Iterable[str]) -> list[Path]:
    """Without hub ids, which are fetched."""
    return [Path(path).absolute() for path in paths if Path(path).exists()]


def allotments(
    plan: Plan, seats: Mapping[str, Sequence[Any]], threads: int
) -> dict[str, Allotment]:
    """By role, what to start its workers with."""
    return {
        role.name: Allotment(
            role.name,
            role.count,
            role.num_cpus,
            role.num_gpus,
            threads,
            seats[role.name],
            role.needs["memory"],
        )
        for role in plan.roles
    }


def _rollout(config: Config, shape: ModelShape, share: float, beside: str | None) -> Role:
    rollout, dtype = config.rollout, config.model.dtype
    per_worker = rollout.gpus_per_worker
    memory = frozen_memory(shape.num_weights, DTYPE_BYTES[dtype], per_worker)
    if config.algorithm.samples_initial_policy:
        memory.parts["initial policy"] = memory.parts["weights"]
    cache, words = rollout.cache(cache_bytes(shape, dtype, 1), config.placement.gpus)
    if cache is not None:
        memory.parts["cache"] = cache
    else:
        token = format_bytes(cache_bytes(shape, dtype, 1000))
        words = f"; cache {token} per 1,000 tokens, {words}"
    total, parts = told(memory)
    return Role("rollout", rollout.num_workers, 1, share * per_worker, total, parts + words, beside)
