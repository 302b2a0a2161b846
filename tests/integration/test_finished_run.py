"""Runs of one seed, one beside a wandb that cannot be reached, and one with a judge of one's own:
what they leave."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from commands import SMALL, finish, run, start, untimed, weights
from wandb_file import history

from rlhf.storage.store import read, read_metrics
from rlhf.watching.metric_names import METRICS, describe

EASY = [
    *(override for override in SMALL if not override.startswith("tracking=")),
    "data.num_digits=1",
    "data.num_prompts=60",
    "data.num_heldout=32",
    "warmup.steps=120",
    "run.checkpoint_every=2",
]
"""Sums of which the model gets some right, so that there is something to learn."""


class Finished(NamedTuple):
    directory: Path
    output: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Finished, Finished]]:
    """The same run, not tracked, and tracked by a wandb that nothing answers for."""
    scratch = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        patch.setenv("WANDB_API_KEY", "0" * 40)
        modes = ("disabled", "online")
        started = [start(scratch / mode, *EASY, f"tracking={mode}") for mode in modes]
    outputs = [finish(process) for process in started]
    disabled, online = (Finished(scratch / m, o) for m, o in zip(modes, outputs, strict=True))
    yield disabled, online


def test_a_run_leaves_what_the_design_promises(runs):
    directory = runs[0].directory
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


def test_two_runs_of_one_seed_are_the_same_bit_for_bit_with_one_warning(runs):
    disabled, online = runs
    assert sum(record.get("policy/num_steps", 0) for record in untimed(online.directory)) > 0
    assert untimed(online.directory) == untimed(disabled.directory)
    assert read(online.directory).equals(read(disabled.directory))
    expected, found = weights(disabled.directory), weights(online.directory)
    assert expected.keys() == found.keys()
    assert all((found[name] == value).all() for name, value in expected.items())
    warnings = [line for line in online.output.splitlines() if "wandb" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: wandb cannot go online, so it stays offline: ")
    assert "wandb" not in disabled.output
    assert not (disabled.directory / "wandb").exists()


def test_wandb_has_what_the_lines_have(runs):
    online = runs[1].directory
    (file,) = (online / "wandb").glob("offline-run-*/*.wandb")
    rows = history(file)
    numbers = [row for row in rows if "policy_version" in row]
    ours = [{n: v for n, v in row.items() if not n.startswith("_")} for row in numbers]
    by_round: dict[int, dict] = {}
    for row in ours:
        by_round.setdefault(row["round"], {}).update(row)
    records = read_metrics(online / "metrics.jsonl")
    known = [{n: v for n, v in one.items() if v is not None} for one in records]
    assert [by_round[record["round"]].keys() for record in known] == [one.keys() for one in known]
    for record in known:
        repeated = {n: v for n, v in record.items() if n != "time/elapsed_s"}
        assert repeated.items() <= by_round[record["round"]].items()


ELSEWHERE = {
    # of pairwise judges
    "judge/win_prob_mean", "judge/order_disagreement", "judge/cycle_rate",
    "eval/win_rate", "eval/exploitability*", "eval/nash_gap*", "eval/share_*",
    # of a second judge of the held-out answers
    "eval/gold_*", "system/gold_*",
    # of judges whose scores have parts
    "eval/part_*", "judge/part_*",
    # of judges that ask others
    "eval/failed_*", "judge/failed_*", "judge/kappa",
    # of a judge for which the policy writes
    "judge/written_tokens",
    # of simulated users
    "eval/satisfied_rate", "eval/greedy_satisfied_rate",
    # of several samples per held-out prompt
    "eval/best_of_n", "eval/pass_at_*", "eval/unique_rate",
    # of the `previous` anchor, of search trees, of GPUs, of a LoRA adapter
    "policy/anchor_gap", "tree/*", "system/*_gpu_*", "weights/merge_lost",
    # of an objective that doubts labels, of a second judge's workers
    "policy/label_confidence", "cluster/restarts_gold",
    # of rollout workers that come and go
    "cluster/rollout_workers",
}  # fmt: skip
"""What this run cannot have."""


def test_every_documented_metric_is_there_and_no_other(runs):
    (file,) = (runs[1].directory / "wandb").glob("offline-run-*/*.wandb")
    emitted = {name for row in history(file) for name in row if "/" in name}
    emitted = {name for name in emitted if not name.startswith(("samples", "preferences", "_"))}
    expected = {name for name in METRICS if not any(Path(name).match(one) for one in ELSEWHERE)}
    assert emitted == expected
    assert all(describe(name) for name in emitted)


def test_there_are_pairs_to_read(runs):
    folder = runs[1].directory / "wandb"
    names = [path.name for path in folder.rglob("*.table.json")]
    assert any(name.startswith("samples") for name in names)
    assert any(name.startswith("preferences") for name in names)


def test_a_finished_policy_is_measured_again(runs):
    finished = runs[0].directory
    again = forked.run("rlhf.evaluate", f"run={finished}", cwd=Path.cwd(), env=os.environ)
    assert again.returncode == 0, again.stderr
    found = json.loads((finished / "evaluation.json").read_text())
    after = json.loads((finished / "summary.json").read_text())["eval"]["after"]
    assert found == pytest.approx(after)


def test_the_verifier_as_a_function_of_ten_lines_gives_the_same_run(runs, tmp_path):
    place = Path(__file__).parents[2] / "examples" / "own_reward" / "rewards.py"
    reward = ["judge=function", f"judge.function={place}:score", "judge.returns=outcomes"]
    run(tmp_path / "own", *EASY, "tracking=disabled", *reward)
    assert untimed(tmp_path / "own") == untimed(runs[0].directory)
    assert sum(record.get("policy/num_steps", 0) for record in untimed(tmp_path / "own")) > 0
    judges = read(tmp_path / "own")["judge"].unique().to_pylist()
    (name,) = [judge for judge in judges if judge]
    assert name.startswith("function/") and "rewards.py:score@" in name
