"""Every kind of worker that a configuration asks for, and what each of them needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.group import Allotment
from cluster.placement import Plan, Role, format_bytes
from rlhf.config import Config
from rlhf.config.judges import (
    GameConfig,
    LLMJudgeConfig,
    NoJudgeConfig,
    SimulatedUserJudgeConfig,
    VerifierConfig,
)
from rlhf.config.models import (
    RolloutConfig,
    TransformersRolloutConfig,
    Transport,
    VllmRolloutConfig,
)
from rlhf.launching.memory import (
    DTYPE_BYTES,
    Memory,
    ModelShape,
    cache_bytes,
    causal_shape,
    dtype_bytes,
    frozen_memory,
    num_weights,
    policy_memory,
)
from rlhf.models.files import ModelJudgeConfig, find_model


def roles(config: Config, model_path: str) -> list[Role]:
    """The workers of a run of the model in `model_path`, in the order in which they get nodes."""
    gpu = 1.0 if config.placement.gpus else 0.0
    colocated = config.placement.colocated
    share = gpu / 2 if colocated else gpu
    shape = causal_shape("model.path", model_path)
    dtype = config.model.dtype
    trained = policy_memory(shape, dtype, config.policy)
    needed = [
        Role("policy", config.policy.num_ranks, 1, share, *_told(trained)),
        _rollout(config, shape, share, "policy" if colocated else None),
    ]
    if needs_reference_workers(config):
        memory = frozen_memory(shape.num_weights, DTYPE_BYTES[dtype])
        needed.append(Role("reference", config.reference.num_workers, 1, gpu, *_told(memory)))
    if judge := _judge(config, gpu):
        needed.append(judge)
    return needed


def needs_reference_workers(config: Config) -> bool:
    """With LoRA the initial policy is the policy with its adapter off."""
    return "initial" in config.objective.anchors and not config.policy.lora_rank


def paths_by_role(config: Config, directory: Path, model_path: str) -> dict[str, list[Path]]:
    """What a role's workers read or write on their own nodes: the run's directory, a known game,
    and models that are folders rather than hub ids."""
    own = [directory, *_folder(model_path)]
    judge = _folder(getattr(config.judge, "path", None))
    if isinstance(config.judge, GameConfig) and Path(config.judge.game).is_absolute():
        judge.append(Path(config.judge.game))
    return {"policy": own, "rollout": own, "reference": own, "judge": judge}


def _folder(path: str | None) -> list[Path]:
    return [Path(path).absolute()] if path and Path(path).is_dir() else []


def allotments(
    plan: Plan, seats: Mapping[str, Sequence[Any]], threads: int
) -> dict[str, Allotment]:
    """By role, what to start its workers with."""
    return {
        role.name: Allotment(
            role.name, role.count, role.num_cpus, role.num_gpus, threads, seats[role.name]
        )
        for role in plan.roles
    }


def _rollout(config: Config, shape: ModelShape, share: float, beside: str | None) -> Role:
    rollout, dtype = config.rollout, config.model.dtype
    per_worker = _gpus_per_engine(rollout)
    memory = frozen_memory(shape.num_weights, DTYPE_BYTES[dtype], per_worker)
    note = ""
    if getattr(config.algorithm, "samples_initial_policy", False):
        memory.parts["initial policy"] = memory.parts["weights"]
    if isinstance(rollout, TransformersRolloutConfig):
        memory.parts["cache"] = cache_bytes(shape, dtype, rollout.max_batch_tokens)
    elif isinstance(rollout, VllmRolloutConfig) and not config.placement.gpus:
        memory.parts["cache"] = rollout.cpu_kv_cache_gib * 2**30
    elif isinstance(rollout, VllmRolloutConfig):
        token = format_bytes(cache_bytes(shape, dtype, 1000))
        note = f"; cache {token} per 1,000 tokens, in {rollout.gpu_memory_utilization:.0%} of a GPU"
    total, words = _told(memory)
    return Role("rollout", rollout.num_workers, 1, share * per_worker, total, words + note, beside)


def _gpus_per_engine(rollout: RolloutConfig) -> int:
    return rollout.tensor_parallel if isinstance(rollout, VllmRolloutConfig) else 1


def _judge(config: Config, gpu: float) -> Role | None:
    """None if nobody judges, or somebody elsewhere."""
    judge, count = config.judge, config.judge.num_workers
    match judge:
        case NoJudgeConfig():
            return None
        case VerifierConfig() | GameConfig() | SimulatedUserJudgeConfig():
            return Role("judge", count, 1, 0.0)
        case LLMJudgeConfig(path=None):
            return None
        case LLMJudgeConfig(path=str(path)):
            gpus = _gpus_per_engine(config.rollout)
            size = DTYPE_BYTES[config.model.dtype]
            memory = frozen_memory(causal_shape("judge.path", path).num_weights, size, gpus)
            return Role("judge", count, 1, gpu * gpus, *_told(memory))
    assert isinstance(judge, ModelJudgeConfig)
    found = find_model(judge)
    memory = frozen_memory(num_weights(found), dtype_bytes(found, judge.dtype))
    return Role("judge", count, 1, gpu, *_told(memory))


def _told(memory: Memory) -> tuple[int, str]:
    words = ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.parts.items())
    return memory.total, words


def transport(config: Config) -> Transport:
    if config.weights.transport is not Transport.auto:
        return config.weights.transport
    if not config.placement.gpus or not isinstance(config.rollout, VllmRolloutConfig):
        return Transport.object_store
    return Transport.ipc if config.placement.colocated else Transport.nccl
