"""Whole runs from the command line, as people start them."""

import json
import os
import shutil
from pathlib import Path

import forked
import pytest
from commands import OF_ANY_DATA, SMALL, finish, run, start
from transformers import AutoModelForSequenceClassification, LlamaConfig

from rlhf.storage.store import read, read_metrics


@pytest.mark.parametrize(
    "overrides",
    [
        ["policy.num_ranks=2", "policy.zero_stage=3", "max_staleness=1", "objective=simpo"],
        ["rollout.num_workers=2", "policy.lora_rank=4", "objective=ipo", "policy.zero_stage=0"],
        ["model.dtype=bfloat16", "objective.anchor=previous", "round.epochs=2"],
    ],
    ids=["zero3-ahead", "lora-two-workers", "bf16-previous"],
)
def test_other_values_of_the_same_command_line(tmp_path, overrides):
    run(tmp_path / "run", *SMALL, *overrides)
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    limit = 0.1 if "model.dtype=bfloat16" in overrides else 1e-3
    assert all(record["weights/logprob_gap"] < limit for record in records)
    ahead = "max_staleness=1" in overrides
    assert [record["staleness/mean"] for record in records] == [0, *[float(ahead)] * 3]


def test_the_same_through_real_vllm_and_two_deepspeed_ranks(tmp_path):
    overrides = ["rollout=vllm", "policy.num_ranks=2", "policy.zero_stage=2"]
    run(tmp_path / "run", *SMALL, *overrides)
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    assert all(record["weights/logprob_gap"] < 1e-3 for record in records)


def test_gsm8k_goes_through_with_a_reward_model(tmp_path, gsm8k, byte_model):
    reward = tmp_path / "reward"
    shutil.copytree(byte_model, reward)
    shape = LlamaConfig.from_pretrained(byte_model, num_labels=1)
    AutoModelForSequenceClassification.from_config(shape).save_pretrained(reward)
    common = [
        "data=gsm8k", f"data.path={gsm8k}/train.jsonl", f"data.heldout_path={gsm8k}/test.jsonl",
        f"model.path={byte_model}", "model.dtype=float32", "rollout=transformers",
        "rollout.max_prompt_tokens=1024", "rollout.max_completion_tokens=24",
        "algorithm.num_completions=3", "algorithm.truncated=keep", "num_rounds=2",
        "round.prompts=32", "eval.num_prompts=8", "tracking=disabled",
    ]  # fmt: skip
    verified = start(tmp_path / "verified", *common, "judge=verifier", "judge.check=math")
    finish(verified)
    summary = json.loads((tmp_path / "verified" / "summary.json").read_text())
    assert summary["counts"]["prompts"] == 64 and summary["counts"]["completions"] == 192
    run(tmp_path / "rewarded", *common, "judge=reward_model", f"judge.path={reward}")
    table = read(tmp_path / "rewarded").to_pylist()
    trained = [row for row in table if row["dropped"] is None]
    assert trained and all(row["chosen_score"] > row["rejected_score"] for row in trained)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["objective=dppo"], ["did you mean objective=dpo?"]),
        (["objective.gamma=2"], ["objective.gamma"]),
        (["policy.num_ranks=many"], ["policy.num_ranks"]),
        (
            ["policy.num_ranks=3", "objective.beta=-1", "eval.num_prompts=0"],
            ["policy.batch_size=512", "objective.beta=-1.0", "eval.num_prompts=0"],
        ),
        (["placement=disaggregated"], ["3 GPUs are needed (policy 1, rollout 1, reference 1)"]),
        (["round.prompts=9000"], ["9000"]),
        (["run.resume=must"], ["no complete checkpoint"]),
        (["data=files"], ["data.path: is required"]),
        (["data=files", "data.path=/nowhere.jsonl", "warmup.steps=0"], ["/nowhere.jsonl"]),
        (["rollout.max_prompt_tokens=3"], ["prompts are longer", "rollout.max_prompt_tokens=3"]),
        (["cluster=auto"], ["cluster.address=auto: no Ray cluster answers"]),
        (["cluster.address=''"], ["cluster.address=: is empty"]),
        (["cluster.address=127.0.0.1:1"], ["no Ray cluster answers at 127.0.0.1:1"]),
        (["cluster.address=ray://head:10001"], ["cluster.address=ray://head:10001: Ray's client"]),
    ],
)
def test_wrong_input_is_told_in_a_line_each_and_nothing_starts(tmp_path, overrides, messages):
    output = run(tmp_path / "run", *OF_ANY_DATA, *overrides, code=2)
    assert "Traceback" not in output and "starting workers" not in output
    for message in messages:
        assert message in output, output
    assert all(line.startswith("error: ") for line in output.splitlines() if "error" in line)


def test_a_dry_run_shows_who_would_go_where_and_leaves_nothing(tmp_path):
    command = ["rlhf", "--dry-run", *SMALL, "placement=disaggregated"]
    how = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}}
    refused = forked.run(*command, f"run.dir={tmp_path}/run", **how)
    assert refused.returncode == 2
    assert "3 GPUs are needed" in refused.stderr and "policy           1     1" in refused.stdout
    command[-1] = "rollout.num_workers=3"
    shown = forked.run(*command, f"run.dir={tmp_path}/run", **how)
    assert shown.returncode == 0, shown.stderr
    lines = {line.split()[0]: " ".join(line.split()) for line in shown.stdout.splitlines() if line}
    assert lines["rollout"].startswith("rollout 3 0 1 32 MiB here ×3 weights")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_has_collapsed_or_diverged_is_told_of(tmp_path):
    settings = [*SMALL, "num_rounds=8", "warmup.steps=100"]
    output = run(tmp_path / "collapsed", *settings, "policy.learning_rate=1e4")
    assert "completed, but no preference in 7 rounds" in output
    summary = json.loads((tmp_path / "collapsed" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert any("the policy has collapsed" in warning for warning in summary["warnings"])

    output = run(tmp_path / "diverged", *settings, "policy.learning_rate=1e12", code=1)
    assert "failed: the policy of version 1 has log-probabilities that are not finite" in output
    assert "lower policy.learning_rate" in output and "weights are not the policy" not in output
    assert not list((tmp_path / "diverged" / "checkpoints").glob("round_*"))
