"""`policy.deepspeed`: DeepSpeed's own settings, told apart before any worker starts."""

import subprocess
import sys

import pytest
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlhf.config.deepspeed_settings import deepspeed_problems, merged
from rlhf.config.models import Attention, Offload, PolicyConfig


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"wall_clock_breakdwon": True},
            "policy.deepspeed.wall_clock_breakdwon=True: DeepSpeed has no such setting; "
            "did you mean policy.deepspeed.wall_clock_breakdown?",
        ),
        (
            {"gradient_clipping": 1.0},
            "policy.deepspeed.gradient_clipping=1.0: Agon sets this of DeepSpeed's settings "
            "itself; set policy.max_grad_norm",
        ),
        (
            {"zero_optimization": {"stage": 3}},
            "policy.deepspeed.zero_optimization.stage=3: Agon sets this of DeepSpeed's settings "
            "itself; set policy.zero_stage",
        ),
        (
            {"zero_optimization": {"overlap_com": True}},
            "policy.deepspeed.zero_optimization.overlap_com=True: DeepSpeed has no such setting; "
            "did you mean policy.deepspeed.zero_optimization.overlap_comm?",
        ),
        (
            {"sequence_parallel_size": 2},
            "policy.deepspeed.sequence_parallel_size=2: Ulysses drops the masks by which rows are "
            "packed and padded, so log-probabilities would be wrong; for long rows set "
            "policy.gradient_checkpointing=true and policy.micro_batch_tokens",
        ),
        (
            {"tensor_parallel": {"autotp_size": 2}},
            "policy.deepspeed.tensor_parallel={'autotp_size': 2}: AutoTP wants the same rows on "
            "all ranks that share a layer, and here every rank has rows of its own; for a model "
            "that is too large for one GPU set policy.zero_stage=3",
        ),
        (
            {"zero_optimization": 2},
            "policy.deepspeed.zero_optimization=2: must be a group of settings",
        ),
    ],
)
def test_what_deepspeed_or_agon_would_not_take_is_told(settings, told):
    assert list(deepspeed_problems(settings)) == [told]
    assert list(PolicyConfig(deepspeed=settings).problems()) == [told]


def test_what_deepspeed_takes_is_left_to_it():
    settings = {
        "communication_data_type": "fp32",
        "comms_logger": {"enabled": True},
        "zero_optimization": {"reduce_bucket_size": 1000, "stage3_prefetch_bucket_size": 10},
    }
    assert list(deepspeed_problems(settings)) == []
    ours = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1}
    assert merged(ours, settings) == {
        "train_micro_batch_size_per_gpu": 1,
        "communication_data_type": "fp32",
        "comms_logger": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 1000,
            "stage3_prefetch_bucket_size": 10,
        },
    }


def test_deepspeed_is_read_and_not_imported():
    script = (
        "import sys; from rlhf.config.deepspeed_settings import deepspeed_names as known;"
        "assert 'comms_logger' in known()['']; assert not {'deepspeed', 'torch'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("offload", "stage", "told"),
    [
        (Offload.none, 0, None),
        (Offload.optimizer, 0, "policy.offload=optimizer: needs policy.zero_stage=1 or more"),
        (Offload.optimizer, 1, None),
        (Offload.parameters, 2, "policy.offload=parameters: needs policy.zero_stage=3 or more"),
        (Offload.parameters, 3, None),
    ],
)
def test_what_is_offloaded_needs_its_zero_stage(offload, stage, told):
    problems = list(PolicyConfig(offload=offload, zero_stage=stage).problems())
    assert [problem.partition(";")[0] for problem in problems] == ([told] if told else [])


def test_rows_are_packed_only_where_attention_takes_their_mask():
    assert list(PolicyConfig(attention=Attention.eager).problems()) == []
    assert list(PolicyConfig(attention=Attention.flex_attention, packing=False).problems()) == []
    (problem,) = PolicyConfig(attention=Attention.flash_attention_2).problems()
    assert problem.startswith("policy.attention=flash_attention_2: takes no mask")


def test_kinds_of_attention_are_transformers_own():
    known = {"auto", "eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()} - {"paged|eager"}
    assert {one.value for one in Attention} == known
