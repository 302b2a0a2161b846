"""Which workers a configuration asks for, and where they go."""

from importlib import metadata
from pathlib import Path

import pytest
from composing import compose

from cluster.placement import Node, make_plan
from rlhf.config.models import TinyModelConfig
from rlhf.launching.assembly import require_transport
from rlhf.launching.command_line import typed
from rlhf.launching.roles import allotments, paths_by_role, roles
from rlhf.problems import InputError
from rlhf.toys.tiny import build_tiny_model

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), directory, seed=1)
    return str(directory)


def config(*overrides: str):
    return typed(compose("train", ["run.dir=x", "data.path=x", *overrides]))


def needs(model: str, *overrides: str) -> dict[str, tuple[int, float, float]]:
    found = roles(config(f"model.path={model}", *overrides), model)
    return {role.name: (role.count, role.num_gpus, role.num_cpus) for role in found}


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ([], dict.fromkeys(("policy", "rollout", "reference", "judge"), (1, 0, 1))),
        (
            ["placement=disaggregated", "policy.num_ranks=8", "rollout.num_workers=4",
             "rollout.tensor_parallel=2", "judge.num_workers=16"],
            {"policy": (8, 1, 1), "rollout": (4, 2, 1), "reference": (1, 1, 1),
             "judge": (16, 0, 1)},
        ),
        (
            ["placement=colocated", "policy.num_ranks=8", "rollout.num_workers=8",
             "objective.anchor=previous"],
            {"policy": (8, 0.5, 1), "rollout": (8, 0.5, 1), "judge": (1, 0, 1)},
        ),
        (
            ["policy.lora_rank=8", "judge=llm", "judge.endpoint=http://j/v1", "judge.model=m"],
            {"policy": (1, 0, 1), "rollout": (1, 0, 1)},
        ),
    ],
    ids=["cpu", "disaggregated", "colocated", "lora-and-a-judge-elsewhere"],
)  # fmt: skip
def test_workers_by_role(model, overrides, expected):
    assert needs(model, *overrides) == expected


def test_a_judge_that_is_a_language_model_is_as_wide_as_the_rollout(model):
    overrides = ["placement=disaggregated", "rollout.tensor_parallel=4", "judge=llm"]
    assert needs(model, *overrides, f"judge.path={model}")["judge"] == (1, 4, 1)


def test_memory_is_told_by_what_it_is_for(model):
    weights = 32 * 16 + 4 * 16 * 16 + 3 * 16 * 64 + 3 * 16
    settings = ["model.dtype=bfloat16", "rollout.cpu_kv_cache_gib=3", f"model.path={model}"]
    found = {role.name: role for role in roles(config(*settings), model)}
    assert found["policy"].memory_bytes == weights * 16
    assert found["rollout"].memory_bytes == weights * 2 + 3 * 2**30
    assert found["reference"].memory_bytes == weights * 2
    assert found["rollout"].memory_parts == "weights 0 MiB, cache 3.0 GiB"


def test_one_gpu_holds_policy_and_rollout_colocated_and_not_apart(model):
    one = [Node("a", "a", {"GPU": 1.0, "CPU": 8.0, "memory": 2.0**40})]
    shared = config("placement=colocated", "objective.anchor=previous", f"model.path={model}")
    plan = make_plan(roles(shared, model), one)
    allotted = allotments(plan, {role.name: ["seat"] for role in plan.roles}, threads=3)
    assert allotted["rollout"].num_gpus == allotted["policy"].num_gpus == 0.5
    assert allotted["policy"].num_threads == 3 and allotted["policy"].seats == ["seat"]


def test_what_workers_read_on_their_nodes(model, tmp_path):
    paths = paths_by_role(config(f"model.path={model}"), tmp_path, model)
    assert paths["policy"] == [tmp_path, Path(model)] and paths["judge"] == []
    hub = paths_by_role(config("model.path=org/name"), tmp_path, "org/name")
    assert hub["rollout"] == [tmp_path]
    judged = config(f"model.path={model}", "judge=reward_model", f"judge.path={tmp_path}")
    assert paths_by_role(judged, tmp_path, model)["judge"] == [tmp_path]


@pytest.mark.parametrize("version, fits", [("0.26.0", False), ("0.32.0", True)])
def test_nccl_needs_a_vllm_that_can_send(model, monkeypatch, version, fits):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    apart = config("placement=disaggregated", "rollout=vllm", f"model.path={model}")
    require_transport(config("placement=colocated", f"model.path={model}"))
    if fits:
        return require_transport(apart)
    with pytest.raises(InputError, match=r"vLLM 0\.32 or newer, and 0\.26\.0 is installed"):
        require_transport(apart)
