"""What can be wrong with a configuration by itself; everything is reported at once."""

import dataclasses
import math
import operator
from collections.abc import Iterator
from difflib import get_close_matches
from enum import Enum
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from rlhf.config.models import LORA_RANKS, PublishedLora, Transport
from rlhf.launching.configuration import Config
from rlhf.launching.overrides import PLAIN, sections, within
from rlhf.launching.transports import transport
from rlhf.options import Fact, Option, unmet
from rlhf.watching.metric_names import describe

_LIMITS = {
    "above": ("above", operator.gt),
    "at_least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "at_most": ("at most", operator.le),
}


def config_problems(config: Config) -> list[str]:
    """One line for each thing that cannot be: key, value, what is allowed, how to fix it."""
    return [*unknown_keys(config, ""), *out_of_range(config, ""), *contradictions(config)]


def unknown_keys(section: Any, prefix: str) -> Iterator[str]:
    """Keys that `+key=value` put where nothing reads them."""
    known = _names(type(section))
    for name in sorted(vars(section).keys() - known):
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        yield f"{prefix}{name}={getattr(section, name)}: there is no such key{hint}"
    for name, part in sorted(sections(section), key=itemgetter(0)):
        yield from unknown_keys(part, f"{prefix}{name}.")


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind))


def out_of_range(section: Any, prefix: str) -> Iterator[str]:
    """In the order of the keys."""
    for name, limits in _limits(type(section)):
        value = getattr(section, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            wrong = [
                f"{words} {limit}" for limit, (words, holds) in limits if not holds(value, limit)
            ]
            if not wrong and isinstance(value, float) and not math.isfinite(value):
                wrong = ["a finite number"]
            for told in wrong:
                yield f"{prefix}{name}={value}: must be {told}"
        if not isinstance(value, PLAIN):
            for key, part in within(name, value):
                yield from out_of_range(part, f"{prefix}{key}.")


@cache
def _limits(kind: type) -> list[tuple[str, list[tuple[Any, tuple[str, Any]]]]]:
    """By key."""
    return [
        (
            field.name,
            [
                (field.metadata[name], limit)
                for name, limit in _LIMITS.items()
                if field.metadata.get(name) is not None
            ],
        )
        for field in dataclasses.fields(kind)
    ]


def contradictions(config: Config) -> Iterator[str]:
    """What values cannot be together, or where they are; the rest each section has by itself."""
    policy, rollout = config.policy, config.rollout
    ranks = max(1, policy.num_ranks)  # fewer than one is out of range already
    if policy.batch_size % ranks:
        nearest = max(1, (policy.batch_size + (ranks - 1) // 2) // ranks) * ranks
        yield (
            f"policy.batch_size={policy.batch_size}: must be divisible by "
            f"policy.num_ranks={ranks}; the nearest is {nearest}"
        )
    on_gpus = config.placement.gpus and rollout.shares_gpus
    where = {Transport.nccl: "disaggregated", Transport.ipc: "colocated"}
    if (needed := where.get(config.weights.transport)) is not None and not (
        on_gpus and config.placement.colocated == (needed == "colocated")
    ):
        yield (
            f"weights.transport={config.weights.transport.value}: needs rollout=vllm and "
            f"placement={needed}; weights.transport=object_store works everywhere"
        )
    if (best := config.run.keep_best) is not None and describe(best.removeprefix("-")) is None:
        yield (
            f"run.keep_best={best}: there is no such metric; docs/metrics.md has them all, such as "
            "eval/score_mean"
        )
    yield from policy.problems()
    yield from _adapter_problems(config)
    if config.placement.colocated and (
        rollout.num_workers != policy.num_ranks or rollout.gpus_per_worker != 1
    ):
        yield (
            f"placement=colocated: needs one rollout worker of one GPU per policy rank; "
            f"set rollout.num_workers={policy.num_ranks} rollout.tensor_parallel=1"
        )
    yield from _elastic_problems(config)
    if config.placement.colocated and config.max_staleness:
        yield (
            f"max_staleness={config.max_staleness}: with placement=colocated policy and rollout "
            "take turns on a GPU; set it to 0, or placement=disaggregated"
        )
    yield from rollout.group_problems(config.algorithm.most_completions)
    options = [value for value in vars(config).values() if isinstance(value, Option)]
    yield from unmet(options)
    for option in options:
        yield from option.problems()
    yield from _objective_problems(config)
    yield from _round_problems(config)
    if not config.model.is_made:
        yield from _model_problems(config.model.path)


def _elastic_problems(config: Config) -> Iterator[str]:
    """Of rollout workers that come and go."""
    rollout = config.rollout
    if rollout.max_workers is None:
        return
    where = f"rollout.max_workers={rollout.max_workers}"
    if rollout.max_workers < rollout.num_workers:
        yield (
            f"{where}: must be at least rollout.num_workers={rollout.num_workers}, with which the "
            "run begins"
        )
    if config.placement.colocated:
        yield (
            f"{where}: with placement=colocated each rollout worker shares the GPU of a policy "
            "rank; leave it out, or set placement=disaggregated"
        )
    elif transport(config) is not Transport.object_store:
        yield (
            f"{where}: GPUs that send weights to each other are connected once, when the run "
            "begins; set weights.transport=object_store"
        )
    if not config.cluster.max_restarts:
        yield f"{where}: needs cluster.max_restarts of at least 1; leave it out, or raise that"


def _adapter_problems(config: Config) -> Iterator[str]:
    """Of a policy with LoRA whose adapter is published by itself."""
    lora, chosen = config.policy.lora, config.weights.transport
    if lora is None or config.weights.lora is PublishedLora.merged:
        return
    if chosen not in (Transport.auto, Transport.object_store):
        yield (
            f"weights.transport={chosen.value}: the adapter of policy.lora_rank={lora.rank} "
            "travels by the object store; leave it out, or set weights.lora=merged to send every "
            "weight"
        )
    if config.rollout.reads_saved and lora.rank > max(LORA_RANKS):
        yield (
            f"policy.lora_rank={lora.rank}: vLLM serves adapters of at most {max(LORA_RANKS)}; "
            "lower it, or set weights.lora=merged"
        )


def _objective_problems(config: Config) -> Iterator[str]:
    """Between the keys of objective, algorithm, curator and judge."""
    objective, algorithm, curator = config.objective, config.algorithm, config.curator
    for soft in (algorithm.soft_labels, curator.soft_labels):
        if objective.takes_certain_labels and soft:
            key, instead = soft
            yield (
                f"{key}: objective={objective.name} takes the chosen side to be better for "
                f"certain; {instead}"
            )
    yield from curator.problems_with(config.judge.asks().keys())
    if Fact.games in algorithm.gives():
        yield from objective.problems_with(algorithm)


def _round_problems(config: Config) -> Iterator[str]:
    """Between the keys of rounds, and of what is collected in them."""
    data, algorithm = config.data, config.algorithm
    steps, share, ahead = config.warmup.steps, config.round.hardest_share, config.max_staleness
    demonstrates = Fact.demonstrations in data.gives()
    key = data.demonstration_key
    if steps and not demonstrates and key:
        yield (
            f"warmup.steps={steps}: needs demonstrations; name their column in {key}, or set "
            "warmup.steps=0"
        )
    elif steps and not demonstrates:
        yield f"warmup.steps={steps}: data={data.name} demonstrates nothing; set it to 0"
    if share < 1 and not demonstrates and not key:
        yield f"round.hardest_share={share:g}: data={data.name} demonstrates nothing; set it to 1"
    if share < 1 and ahead:
        yield (
            f"max_staleness={ahead}: with round.hardest_share={share:g} a round's "
            "prompts follow from the policy before it; set max_staleness=0, or "
            "round.hardest_share=1"
        )
    if ahead and algorithm.stale_why:
        yield f"max_staleness={ahead}: {algorithm.stale_why}; set it to 0"
    if algorithm.first_epochs and config.num_rounds < 2:
        yield (
            f"num_rounds={config.num_rounds}: round 0 is the warm start on the log's own pairs; "
            "set 2 or more, or algorithm.seed_epochs=0"
        )


def _model_problems(path: str) -> Iterator[str]:
    directory = Path(path)
    if not directory.is_dir():
        looks_local = directory.is_absolute() or path.startswith(("./", "../", "~"))
        if looks_local:
            yield f"model.path={path}: no such directory"
        return
    if not (directory / "config.json").exists():
        yield f"model.path={path}: has no config.json, so it is not a Hugging Face model"
    if not list(directory.glob("*.safetensors")):
        yield f"model.path={path}: has no *.safetensors; pickled weights are not loaded"


def plain(section: Any) -> Any:
    """A configuration as plain values, for JSON and YAML."""
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return {f.name: plain(getattr(section, f.name)) for f in dataclasses.fields(section)}
    if isinstance(section, list):
        return [plain(item) for item in section]
    if isinstance(section, dict):
        return {name: plain(item) for name, item in section.items()}
    return section.value if isinstance(section, Enum) else section
