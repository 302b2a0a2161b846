"""Further settings of DeepSpeed that a run may have, by its own names; it is read, not imported."""

import ast
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_BATCHES = "set policy.batch_size and policy.micro_batch_tokens"
_RANKS = "set policy.num_ranks and policy.zero_stage"

OWNED = {
    "train_batch_size": _BATCHES,
    "train_micro_batch_size_per_gpu": _BATCHES,
    "gradient_accumulation_steps": _BATCHES,
    "gradient_clipping": "set policy.max_grad_norm",
    "bf16": "set model.dtype",
    "fp16": "set model.dtype",
    "amp": "set model.dtype",
    "torch_autocast": "set model.dtype",
    "optimizer": "set policy.optimizer",
    "scheduler": "set policy.schedule",
    "zero_allow_untested_optimizer": "set policy.optimizer",
    "zero_force_ds_cpu_optimizer": "set policy.optimizer",
    "activation_checkpointing": "set policy.gradient_checkpointing",
    "data_parallel_size": _RANKS,
    "expert_parallel": _RANKS,
    "pipeline": _RANKS,
    "elasticity": _RANKS,
    "zero_optimization.stage": "set policy.zero_stage",
    "zero_optimization.offload_optimizer": "set policy.offload",
    "zero_optimization.offload_param": "set policy.offload",
    "zero_optimization.cpu_offload": "set policy.offload",
    "zero_optimization.cpu_offload_param": "set policy.offload",
}
"""What Agon sets itself, each with what to do instead."""

REFUSED = {
    # deepspeed/runtime/sequence_parallel/ulysses_sp.py: attention gets no mask but FlexAttention's.
    "sequence_parallel_size": "Ulysses drops the masks by which rows are packed and padded, so "
    "log-probabilities would be wrong; for long rows set policy.gradient_checkpointing=true and "
    "policy.micro_batch_tokens",
    # deepspeed/runtime/engine.py: the ranks' inputs must be the same.
    "tensor_parallel": "AutoTP wants the same rows on all ranks that share a layer, and here every "
    "rank has rows of its own; for a model that is too large for one GPU set policy.zero_stage=3",
}
"""What does not go together with how Agon trains, and why."""

Names = Mapping[str, frozenset[str]]


def deepspeed_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be of `policy.deepspeed`, one line each.

    Only names are looked at; what DeepSpeed does not take of a value, its workers tell.
    """
    if not settings:
        return
    known = deepspeed_names()
    inner = settings.get("zero_optimization", {})
    if not isinstance(inner, Mapping):
        yield f"policy.deepspeed.zero_optimization={inner}: must be a group of settings"
        inner = {}
    yield from _problems("", settings, known[""])
    yield from _problems("zero_optimization.", inner, known["zero_optimization."])


def _problems(prefix: str, settings: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    for name, value in settings.items():
        key = f"policy.deepspeed.{prefix}{name}={value}"
        if (path := prefix + name) in REFUSED:
            yield f"{key}: {REFUSED[path]}"
        elif path in OWNED:
            yield f"{key}: Agon sets this of DeepSpeed's settings itself; {OWNED[path]}"
        elif known and name not in known:
            near = get_close_matches(name, {n for n in known if prefix + n not in OWNED}, 1)
            hint = f"; did you mean policy.deepspeed.{prefix}{near[0]}?" if near else ""
            yield f"{key}: DeepSpeed has no such setting{hint}"


@cache
def deepspeed_names() -> Names:
    """DeepSpeed's settings by the group that they stand in; none where it is not installed.

    Of those that stand in no group it has no list: they are the constants of its files of
    settings, where some stand that belong further in.
    """
    spec = find_spec("deepspeed")
    if spec is None or not spec.submodule_search_locations:
        return {"": frozenset(), "zero_optimization.": frozenset()}
    folder = Path(spec.submodule_search_locations[0])
    files = [file for name in ("constants", "config") for file in folder.rglob(f"{name}.py")]
    constants = {
        str(node.value)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    zero = ast.parse((folder / "runtime" / "zero" / "config.py").read_text(encoding="utf-8"))
    (group,) = [
        node
        for node in zero.body
        if isinstance(node, ast.ClassDef) and node.name == "DeepSpeedZeroConfig"
    ]
    fields = [item for item in group.body if isinstance(item, ast.AnnAssign)]
    names = {item.target.id for item in fields if isinstance(item.target, ast.Name)}
    aliases = {
        str(word.value.value)
        for item in fields
        if isinstance(item.value, ast.Call)
        for word in item.value.keywords
        if word.arg == "alias" and isinstance(word.value, ast.Constant)
    }
    return {
        "": frozenset(name for name in constants if name.isidentifier()),
        "zero_optimization.": frozenset(names | aliases),
    }


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Both, group by group; `deepspeed_problems` has seen to it that they do not meet."""
    both = dict(ours)
    for name, value in theirs.items():
        inner = both.get(name)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merged(inner, value)
        both[name] = value
    return both
