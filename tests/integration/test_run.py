"""Whole runs from the command line, as people start them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import SMALL, Terminal, finish, run, start
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlamaConfig

from rlhf.storage.store import read, read_metrics
from rlhf.watching.metric_names import is_repeatable


def untimed(directory: Path) -> list[dict]:
    """The metrics, but for what the clock and the machine say."""
    return [
        {key: value for key, value in record.items() if is_repeatable(key)}
        for record in read_metrics(directory / "metrics.jsonl")
    ]


def weights(directory: Path) -> dict:
    return load_file(directory / "policy" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole small run, to look at."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    run(directory, *SMALL)
    return directory


def test_a_run_leaves_what_the_design_promises(finished):
    directory = finished
    records = read_metrics(directory / "metrics.jsonl")
    assert [record["round"] for record in records] == [-1, 0, 1, 2, 3]
    for record in records[1:]:
        assert record["weights/logprob_gap"] < 1e-3
        assert record["weights/version"] == record["policy_version"] == record["round"] + 1
        assert record["staleness/mean"] == 0
        assert record["policy/num_steps"] >= 0
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["rounds"] == 4
    for moment in ("before", "after"):
        assert 0 <= summary["eval"][moment]["sampled_accuracy"] <= 1
    table = read(directory)
    assert set(table["round"].to_pylist()) <= {0, 1, 2, 3}
    assert (directory / "checkpoints" / "LATEST").read_text() == "round_000004"
    assert (directory / "curves.png").stat().st_size > 10_000
    assert (directory / "policy" / "tokenizer.json").exists()


def test_two_runs_of_one_seed_are_the_same(finished, tmp_path):
    run(tmp_path / "again", *SMALL)
    assert untimed(tmp_path / "again") == untimed(finished)
    assert read(tmp_path / "again").equals(read(finished))


def test_a_killed_run_goes_on_and_ends_bit_for_bit_like_an_unbroken_one(tmp_path):
    settings = [*SMALL, "num_rounds=40", "run.checkpoint_every=3"]
    unbroken = start(tmp_path / "unbroken", *settings)
    killed = start(tmp_path / "killed", *settings)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed" / "checkpoints").glob("round_*6")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    finish(unbroken)
    output = run(tmp_path / "killed", *settings, "run.resume=must")
    assert "resuming from" in output
    expected, found = weights(tmp_path / "unbroken"), weights(tmp_path / "killed")
    assert all((found[name] == value).all() for name, value in expected.items())
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "unbroken")
    assert read(tmp_path / "killed").equals(read(tmp_path / "unbroken"))


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
    output = run(tmp_path / "run", *SMALL, *overrides, code=2)
    assert "Traceback" not in output and "starting workers" not in output
    for message in messages:
        assert message in output, output
    assert all(line.startswith("error: ") for line in output.splitlines() if "error" in line)


def test_a_dry_run_shows_who_would_go_where_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "rlhf", "--dry-run", *SMALL, "placement=disaggregated"]
    how = {"capture_output": True, "text": True, "timeout": 120, "cwd": tmp_path}
    how["env"] = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    refused = subprocess.run([*command, f"run.dir={tmp_path}/run"], **how)
    assert refused.returncode == 2
    assert "3 GPUs are needed" in refused.stderr and "policy           1     1" in refused.stdout
    command[-1] = "rollout.num_workers=3"
    shown = subprocess.run([*command, f"run.dir={tmp_path}/run"], **how)
    assert shown.returncode == 0, shown.stderr
    lines = {line.split()[0]: " ".join(line.split()) for line in shown.stdout.splitlines() if line}
    assert lines["rollout"].startswith("rollout 3 0 1 32 MiB here ×3 weights")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_asked_to_stop_keeps_what_it_has_and_goes_on(tmp_path):
    directory, settings = tmp_path / "run", ENDLESS
    stopped = start(directory, *settings)
    until_round(directory, 3)
    stopped.send_signal(signal.SIGTERM)
    output = finish(stopped, code=143, timeout_s=60)
    assert "stopped after" in output and "Traceback" not in output
    done = kept(directory, at_least=3)

    terminal = Terminal(directory, *settings)
    until_round(directory, done + 1)
    terminal.press_ctrl_c()  # which all of its processes hear
    output = terminal.finish(code=143)
    assert "resuming from" in output and "stopped after" in output and "Traceback" not in output
    done = kept(directory, at_least=done + 1)

    terminal = Terminal(directory, *settings)
    until_round(directory, done + 1)
    terminal.close()  # and nothing can be written to it any more
    terminal.finish(code=143)
    done = kept(directory, at_least=done + 1)

    piped = start(directory, *settings)
    until_round(directory, done + 1)
    assert piped.stdout is not None
    piped.stdout.close()
    assert piped.wait(60) == 143
    last = kept(directory, at_least=done + 1) + 2

    assert "resuming from" in run(directory, *settings, f"num_rounds={last}")
    assert [one["round"] for one in read_metrics(directory / "metrics.jsonl")] == [*range(-1, last)]
    again = run(directory, *settings, f"num_rounds={last}")
    assert "the run there is finished" in again and "starting workers" not in again


ENDLESS = [*SMALL, "num_rounds=1000", "run.checkpoint_every=1000"]
"""For runs that do not end by themselves while somebody waits for something else."""


def kept(directory: Path, at_least: int) -> int:
    """How many rounds a run that was stopped has kept."""
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "stopped" and summary["rounds"] >= at_least
    newest = (directory / "checkpoints" / "LATEST").read_text()
    assert newest == f"round_{summary['rounds']:06}"
    return summary["rounds"]


def test_what_was_learnt_outlives_any_worker(tmp_path):
    directory, settings = tmp_path / "run", ENDLESS
    done = 0
    for role, process in WORKERS.items():
        begun = start(directory, *settings)
        until_round(directory, done + 2)
        kill_worker(begun, process)
        output = finish(begun, code=1, timeout_s=120)
        assert f"failed: {role}-0 on node" in output and "Traceback" not in output
        assert json.loads((directory / "summary.json").read_text())["status"] == "failed"
        newest = int((directory / "checkpoints" / "LATEST").read_text().removeprefix("round_"))
        # All but what the policy has taken with it.
        assert newest == done if role == "policy" else newest >= done + 2
        done = newest
    last = done + 2
    assert "resuming from" in run(directory, *settings, f"num_rounds={last}")
    assert [one["round"] for one in read_metrics(directory / "metrics.jsonl")] == [*range(-1, last)]


WORKERS = {
    "judge": "ray::JudgeWorker",
    "rollout": "ray::RolloutWorker",
    "reference": "ray::ReferenceWorker",
    "policy": "ray::PolicyRank",
}
"""What Ray calls their processes."""


def kill_worker(begun: subprocess.Popen, process: str) -> None:
    (worker,) = (
        one
        for one in psutil.Process(begun.pid).children(recursive=True)
        if one.cmdline() and one.cmdline()[0].startswith(process)
    )
    worker.kill()


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


def test_a_stop_before_the_first_round_ends_at_once(tmp_path):
    settings = [*SMALL, "warmup.steps=100000", "warmup.stop_loss=null"]
    stopped = start(tmp_path / "run", *settings)
    assert stopped.stdout is not None
    while "warm-up" not in (line := stopped.stdout.readline()):
        assert line, "it ended before its warm-up"
    stopped.send_signal(signal.SIGTERM)
    assert "stopped before its first round" in finish(stopped, code=143, timeout_s=60)


def until_round(directory: Path, number: int) -> None:
    deadline = time.monotonic() + 300
    while len(read_metrics(directory / "metrics.jsonl")) <= number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_finished_policy_is_measured_again(finished):
    again = subprocess.run(
        [sys.executable, "-m", "rlhf.evaluate", f"run={finished}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    found = json.loads((finished / "evaluation.json").read_text())
    after = json.loads((finished / "summary.json").read_text())["eval"]["after"]
    assert found == pytest.approx(after)
