"""A whole run that asks what its policy finds hardest: real actors, from the command line."""

import asyncio
from pathlib import Path

import pytest
import torch
from commands import SMALL, run, untimed
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

from rlhf.launching.command_line import checked
from rlhf.launching.configuration import register_schemas
from rlhf.launching.inputs import read_inputs
from rlhf.learning.reading import sum_logprobs
from rlhf.storage.store import read, read_metrics

CONF = Path(__file__).parents[2] / "conf"
HARD = [*SMALL, "num_rounds=2", "round.hardest_share=0.5", "warmup.easy_first=true"]


def first_candidates(directory: Path) -> dict[str, float]:
    """Of round 0, by prompt id, with their mean NLL under the policy that the run began with."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = checked(compose("train", [*HARD, f"run.dir={directory}"]))
    inputs = read_inputs(config, directory)
    ids = [prompt.id for prompt in asyncio.run(inputs.schedule.round(0))]
    shown = [inputs.data.demonstrations[id] for id in ids]
    model = AutoModelForCausalLM.from_pretrained(directory / "initial_policy", dtype=torch.float32)
    sums = sum_logprobs(model.eval(), shown, 4096, torch.device("cpu"))
    return {id: -nats / len(one.completion)
            for id, nats, one in zip(ids, sums, shown, strict=True)}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "run"
    run(directory, *HARD)
    return directory


def test_a_round_asks_the_harder_half_of_its_candidates(finished):
    records = read_metrics(finished / "metrics.jsonl")[1:]
    assert [record["rollout/num_prompts"] for record in records] == [16, 16]
    nlls = first_candidates(finished)
    assert len(nlls) == 32
    harder = sorted(nlls.values())[16]
    asked = {row["prompt_id"] for row in read(finished).to_pylist() if row["round"] == 0}
    assert asked and asked <= nlls.keys()
    assert all(nlls[id] > harder - 1e-4 for id in asked)


def test_the_same_run_again_asks_the_same(finished, tmp_path):
    run(tmp_path / "again", *HARD)
    assert untimed(tmp_path / "again") == untimed(finished)
    assert read(tmp_path / "again").equals(read(finished))
