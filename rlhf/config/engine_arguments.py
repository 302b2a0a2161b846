"""Further arguments of vLLM that a run may set, by its own list, which is read, not imported."""

import ast
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_ADAPTER = "policy.lora_rank and policy.lora_alpha decide it"
_MODEL = "model.path is where it is read"
_RAY = "rollout.num_workers, rollout.tensor_parallel and cluster.* decide where engines run"
_WEIGHTS = "weights.transport decides how weights arrive"
_CODE = "code that comes along with a model is never run"

OWNED = {
    "model": "set model.path",
    "tokenizer": _MODEL,
    "tokenizer_mode": _MODEL,
    "tokenizer_revision": _MODEL,
    "skip_tokenizer_init": _MODEL,
    "revision": _MODEL,
    "code_revision": _CODE,
    "trust_remote_code": _CODE,
    "allowed_local_media_path": _CODE,
    "load_format": _MODEL,
    "dtype": "set model.dtype",
    "seed": "set seed",
    "max_model_len": "set rollout.max_prompt_tokens and rollout.max_completion_tokens",
    "tensor_parallel_size": "set rollout.tensor_parallel",
    "gpu_memory_utilization": "set rollout.gpu_memory_utilization",
    "enforce_eager": "set rollout.enforce_eager",
    "enable_sleep_mode": "placement=colocated decides it",
    "logprobs_mode": "log-probabilities are compared with the policy's, as they are",
    "enable_lora": _ADAPTER,
    "max_loras": _ADAPTER,
    "max_lora_rank": _ADAPTER,
    "lora_dtype": _ADAPTER,
    "lora_target_modules": _ADAPTER,
    "distributed_executor_backend": _RAY,
    "data_parallel_size": _RAY,
    "pipeline_parallel_size": _RAY,
    "nnodes": _RAY,
    "worker_extension_cls": _WEIGHTS,
    "weight_transfer_config": _WEIGHTS,
}
"""What Agon sets itself, each with what to do instead."""

_PLAIN = {"bool": bool, "int": int, "str": str, "dict": dict, "list": list, "None": type(None)}


def engine_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be of `rollout.engine`, one line each.

    Where vLLM is not installed on this machine, its workers' own refusal has to do.
    """
    known = vllm_arguments()
    for name, value in arguments.items():
        key = f"rollout.engine.{name}={value}"
        if name in OWNED:
            yield f"{key}: Agon sets this of vLLM's arguments itself; {OWNED[name]}"
        elif known and name not in known:
            near = get_close_matches(name, known.keys() - OWNED.keys(), 1)
            hint = f"; did you mean rollout.engine.{near[0]}?" if near else ""
            yield f"{key}: vLLM has no such argument{hint}"
        elif known and (wanted := _unsuited(known[name], value)):
            yield f"{key}: must be {wanted}, as vLLM's {name} is"


@cache
def vllm_arguments() -> Mapping[str, str]:
    """vLLM's engine arguments and their types as they stand in its file; none where it is not."""
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    file = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    classes = {
        node.name: node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    return {
        item.target.id: ast.unparse(item.annotation).strip("'\"")
        for name in ("EngineArgs", "AsyncEngineArgs")
        for item in classes[name].body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _unsuited(annotation: str, value: Any) -> str | None:
    """What the value should be, if it is none of that; types that are vLLM's own take anything."""
    parts = [part.partition("[")[0].strip() for part in annotation.split(" | ")]
    if not all(part in (*_PLAIN, "float") for part in parts):
        return None
    for part in parts:
        kind = (int, float) if part == "float" else _PLAIN[part]
        if isinstance(value, kind) and (part == "bool" or not isinstance(value, bool)):
            return None
    return " or ".join("null" if part == "None" else part for part in parts)
