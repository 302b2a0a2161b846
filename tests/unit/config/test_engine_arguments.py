"""`rollout.engine`: vLLM's own arguments, told apart before any worker starts."""

import subprocess
import sys

import pytest

from rlhf.config.engine_arguments import OWNED, engine_problems, vllm_arguments
from rlhf.config.models import TransformersRolloutConfig, VllmRolloutConfig


def test_what_agon_sets_is_vllm_s_too():
    assert OWNED.keys() <= vllm_arguments().keys()
    assert vllm_arguments()["max_num_seqs"] == "int | None"


def test_vllm_is_read_and_not_imported():
    script = (
        "import sys; from rlhf.config.engine_arguments import vllm_arguments as known;"
        "assert 'max_num_seqs' in known(); assert not {'vllm', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"max_num_seq": 4},
            "rollout.engine.max_num_seq=4: vLLM has no such argument; "
            "did you mean rollout.engine.max_num_seqs?",
        ),
        (
            {"tensor_parallel_size": 2},
            "rollout.engine.tensor_parallel_size=2: Agon sets this of vLLM's arguments itself; "
            "set rollout.tensor_parallel",
        ),
        (
            {"max_num_seqs": "many"},
            "rollout.engine.max_num_seqs=many: must be int or null, as vLLM's max_num_seqs is",
        ),
        (
            {"max_num_seqs": True},
            "rollout.engine.max_num_seqs=True: must be int or null, as vLLM's max_num_seqs is",
        ),
        (
            {"disable_log_stats": 1},
            "rollout.engine.disable_log_stats=1: must be bool, as vLLM's disable_log_stats is",
        ),
        (
            {"speculative_config": "ngram"},
            "rollout.engine.speculative_config=ngram: must be dict or null, as vLLM's "
            "speculative_config is",
        ),
    ],
)
def test_what_vllm_or_agon_would_not_take_is_told(arguments, told):
    assert list(engine_problems(arguments)) == [told]
    assert list(VllmRolloutConfig(engine=arguments).problems()) == [told]


def test_what_vllm_takes_is_left_to_it():
    arguments = {
        "quantization": "fp8",
        "attention_backend": "FLASH_ATTN",  # of a type of vLLM's own
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 2},
        "cpu_offload_gb": 1,
        "max_num_seqs": None,
    }
    assert list(engine_problems(arguments)) == []


def test_of_transformers_there_are_none():
    (told,) = TransformersRolloutConfig(engine={"quantization": "fp8"}).problems()
    assert told.startswith("rollout.engine.quantization=fp8: rollout=transformers takes no")
