"""What people see of a run, with wandb and without."""

import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb
from rich.console import Console
from wandb_file import history, sent

from rlhf.config.run import OnCollapse, TrackingConfig, WandbMode
from rlhf.problems import Collapsed
from rlhf.records import (
    Collected,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Message,
    Preference,
    Prompt,
)
from rlhf.stages import Tracker
from rlhf.watching.alerts import Alert
from rlhf.watching.masking import mask_secrets
from rlhf.watching.metrics import collection_metrics
from rlhf.watching.sample_tables import sample_tables
from rlhf.watching.terminal import Terminal
from rlhf.watching.tracking import RunTracker

OFF = TrackingConfig(wandb=WandbMode.disabled)
OFFLINE = TrackingConfig(wandb=WandbMode.offline, table_every=2, table_rows=2)
TIMES = {"time/collect_s": 1.0, "time/round_s": 2.0}


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wandb as on a machine where nobody has logged in, and that has no network."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    wandb.teardown()


@pytest.fixture
def collected() -> list[Collected]:
    groups = []
    for id in ("a", "b"):
        completions = tuple(
            Completion(id, sample, (1, 2), (-0.5, -0.5), f"{id}{sample}", False, 0)
            for sample in range(2)
        )
        prompt = Prompt(id, (Message("user", f"{id}?"),), (1,))
        verdict = Judgement((1.0, None), "fake@1")
        if id == "a":
            pair = Preference.over(prompt, *completions, 1.0, 0.25, verdict.judge, win_prob=0.875)
            groups.append(Collected(prompt, completions, verdict, (pair,), ()))
        else:
            dropped = Dropped(DropReason.JUDGE_FAILED, *completions)
            groups.append(Collected(prompt, completions, verdict, (), (dropped,)))
    return groups


def start(
    run: Path, config: TrackingConfig = OFF, **changes: Any
) -> tuple[RunTracker, io.StringIO]:
    shown = io.StringIO()
    arguments: dict[str, Any] = {"resolved": {"seed": 1}, "name": "test", "num_rounds": 4} | changes
    return RunTracker(run, config, **arguments, console=Console(file=shown)), shown


def train(tracker: RunTracker, collected: list[Collected], *rounds: int) -> None:
    for round in rounds:
        metrics = collection_metrics(collected, policy_version=round)
        tracker.show(round, collected)
        tracker.log(round, metrics | TIMES | {"policy/loss": 0.5})


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(run: Path) -> list[dict[str, Any]]:
    return [{n: v for n, v in one.items() if n != "time/elapsed_s"} for one in records(run)]


def test_it_is_a_tracker(tmp_path: Path) -> None:
    tracker: Tracker = start(tmp_path)[0]
    assert tracker is not None


def test_a_run_that_ends_badly_says_so(tmp_path: Path) -> None:
    tracker, shown = start(tmp_path)
    tracker.log_eval(0, {"sampled_accuracy": 0.5})
    tracker.log_eval(2, {"sampled_accuracy": 0.25})
    tracker.close("completed")
    (warning,) = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert warning.startswith("eval/sampled_accuracy is 0.25, after 0.5 at first: ")
    assert f"completed, but {warning}" in " ".join(shown.getvalue().split())


def test_a_run_leaves_lines_and_a_summary(tmp_path: Path, collected: list[Collected]) -> None:
    tracker, _ = start(tmp_path)
    tracker.log_eval(0, {"score_mean": 0.25, "time/evaluate_s": 0.5})
    train(tracker, collected, 0)
    tracker.log_eval(2, {"score_mean": 0.75})
    train(tracker, collected, 1)
    tracker.close("completed")
    tracker.close("failed")
    lines = records(tmp_path)
    assert [(line["round"], line["policy_version"]) for line in lines] == [(-1, 0), (0, 1), (1, 2)]
    assert [line.get("eval/score_mean") for line in lines] == [0.25, None, 0.75]
    assert lines[1]["rollout/tokens_per_s"] == 8 / 2.0
    assert all(list(line)[2:] == sorted(list(line)[2:]) for line in lines)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == [
        "status",
        "rounds",
        "eval",
        "throughput",
        "counts",
        "restarts",
        "time_s",
        "warnings",
    ]
    assert summary["status"] == "completed"
    assert summary["eval"] == {"before": {"score_mean": 0.25}, "after": {"score_mean": 0.75}}
    assert summary["throughput"]["completions_per_s"] == 8 / 4
    assert summary["time_s"]["collect"] == 2.0
    assert summary["time_s"]["evaluate"] == 0.5
    assert summary["time_s"]["total"] >= lines[-1]["time/elapsed_s"]


def test_a_line_is_on_disk_when_log_returns(tmp_path: Path, collected: list[Collected]) -> None:
    tracker, _ = start(tmp_path)
    for round in range(3):
        train(tracker, collected, round)
        assert len(records(tmp_path)) == round + 1


def test_a_resumed_run_is_summed_as_a_whole(tmp_path: Path, collected: list[Collected]) -> None:
    killed, _ = start(tmp_path)
    killed.log_eval(0, {"score_mean": 0.25})
    train(killed, collected, 0, 1, 2)
    elapsed_s = records(tmp_path)[2]["time/elapsed_s"]
    resumed, _ = start(tmp_path, start_round=2)
    train(resumed, collected, 2, 3)
    resumed.log_eval(4, {"score_mean": 0.5})
    resumed.close("completed")
    assert [record["round"] for record in records(tmp_path)] == [-1, 0, 1, 2, 3]
    assert records(tmp_path)[-1]["time/elapsed_s"] > elapsed_s
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"] == 4
    assert summary["counts"]["completions"] == 16
    assert summary["time_s"]["round"] == 8.0
    assert summary["eval"] == {"before": {"score_mean": 0.25}, "after": {"score_mean": 0.5}}


def test_a_number_that_is_not_finite_is_told_once(tmp_path: Path) -> None:
    tracker, shown = start(tmp_path)
    for round in range(2):
        tracker.log(round, {"policy/grad_norm": float("nan"), "policy/loss": 0.5})
    tracker.close("failed")
    assert [record["policy/grad_norm"] for record in records(tmp_path)] == [None, None]
    assert shown.getvalue().count("policy/grad_norm") == 1


def test_wandb_offline_has_the_run(tmp_path: Path, collected: list[Collected]) -> None:
    tracker, shown = start(
        tmp_path, OFFLINE, resolved={"seed": 1, "judge": {"api_key": "hunter2"}}, name="my run"
    )
    tracker.log_eval(0, {"score_mean": 0.25})
    train(tracker, collected, 0, 1)
    tracker.close("completed")
    (file,) = (tmp_path / "wandb").rglob("*.wandb")
    assert file.name == f"run-{tracker.wandb_id}.wandb"
    found = sent(file)
    (run,) = [one.run for one in found if one.WhichOneof("record_type") == "run"]
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert (run.project, run.display_name, config["seed"]) == ("agon", "my run", 1)
    assert config["judge"] == {"api_key": "***"}
    axes = [one.metric for one in found if one.WhichOneof("record_type") == "metric"]
    assert [(axis.name or axis.glob_name, axis.step_metric) for axis in axes] == [
        ("round", ""),
        ("*", "round"),
    ]
    numbers = [row for row in history(file) if "policy_version" in row]
    assert [(row["round"], row.get("eval/score_mean")) for row in numbers] == [
        (-1, 0.25),
        (0, None),
        (1, None),
    ]
    documented = {"rollout/length_mean", "judge/score_mean", "preference/count", "staleness/mean"}
    assert documented | {"policy/loss", "time/round_s"} <= numbers[1].keys()
    tables = {
        name: json.loads(path.read_text())
        for name in ("samples", "preferences")
        for path in (file.parent / "files" / "media" / "table").glob(f"{name}*.json")
    }
    assert tables["samples"] == {
        "columns": ["prompt", "completion", "score", "judge", "truncated", "policy_version"],
        "data": [
            ["a?", "a0", 1.0, "fake@1", False, 0],
            ["b?", "b0", 1.0, "fake@1", False, 0],
        ],
    }
    assert [
        dict(zip(tables["preferences"]["columns"], row, strict=True))
        for row in tables["preferences"]["data"]
    ] == [
        {
            "prompt": "a?",
            "prefix": "",
            "chosen": "a0",
            "rejected": "a1",
            "chosen_score": 1.0,
            "rejected_score": 0.25,
            "margin": 0.75,
            "win_prob": 0.875,
            "judge": "fake@1",
            "dropped": None,
        },
        {
            "prompt": "b?",
            "prefix": "",
            "chosen": "b0",
            "rejected": "b1",
            "chosen_score": 1.0,
            "rejected_score": None,
            "margin": None,
            "win_prob": None,
            "judge": "fake@1",
            "dropped": "judge_failed",
        },
    ]
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"hunter2" not in everything
    assert "wandb" not in shown.getvalue()


def test_a_resumed_offline_run_has_the_whole_history(
    tmp_path: Path, collected: list[Collected]
) -> None:
    killed, _ = start(tmp_path, OFFLINE)
    train(killed, collected, 0, 1, 2)
    killed.close("failed")
    (first,) = (tmp_path / "wandb").rglob("*.wandb")
    first.parent.rename(first.parent.with_name("first"))
    resumed, _ = start(tmp_path, OFFLINE, start_round=2, wandb_id=killed.wandb_id)
    train(resumed, collected, 2, 3)
    resumed.close("completed")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert file.name == first.name
    assert [row["round"] for row in history(file) if "policy/loss" in row] == [0, 1, 2, 3]


def test_a_run_that_is_set_back_is_like_one_that_is_resumed(
    tmp_path: Path, collected: list[Collected]
) -> None:
    tracker, shown = start(tmp_path, OFFLINE)
    train(tracker, collected, 0, 1, 2)
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    first.rename(tmp_path / "first")  # names have seconds only
    known, id = tracker.records(), tracker.wandb_id
    tracker.set_back(1)
    assert tracker.records() == known[:1] and tracker.wandb_id == id
    tracker.alert(Alert("policy-1 was lost", "policy-1 was killed"))
    train(tracker, collected, 1, 2, 3)
    tracker.close("completed")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [row["round"] for row in history(file) if "policy/loss" in row] == [0, 1, 2, 3]
    assert [record["round"] for record in records(tmp_path)] == [0, 1, 2, 3]
    assert shown.getvalue().count("warning: policy-1 was killed\n") == 1


def test_wandb_that_cannot_start_changes_nothing_else(
    tmp_path: Path, collected: list[Collected]
) -> None:
    for name in ("with", "without"):
        run = tmp_path / name
        run.mkdir()
        if name == "without":
            (run / "wandb").write_text("where wandb's directory should be")
        tracker, shown = start(run, OFFLINE)
        train(tracker, collected, 0, 1)
        tracker.close("completed")
        assert shown.getvalue().count("warning: wandb cannot start") == (name == "without")
    assert untimed(tmp_path / "with") == untimed(tmp_path / "without")
    assert (tmp_path / "without" / "summary.json").exists()


@pytest.mark.parametrize("when", ["on the way", "at the end"])
def test_wandb_that_dies_is_told_once_and_its_numbers_are_written_anew(
    tmp_path: Path, collected: list[Collected], when: str
) -> None:
    tracker, shown = start(tmp_path, OFFLINE)
    later = (1, 2, 3) if when == "on the way" else ()
    train(tracker, collected, *(number for number in range(4) if number not in later))
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    first.rename(tmp_path / "first")  # names have seconds only
    children = psutil.Process().children(recursive=True)
    (service,) = [child for child in children if child.name() == "wandb-core"]
    service.send_signal(signal.SIGKILL)
    service.wait(timeout=10)
    train(tracker, collected, *later)
    tracker.close("completed")
    assert shown.getvalue().count("warning: wandb has failed") == 1
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [row["round"] for row in history(file) if "policy/loss" in row] == [0, 1, 2, 3]
    assert [record["round"] for record in records(tmp_path)] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "completed"


def test_without_an_account_online_becomes_offline(
    tmp_path: Path, collected: list[Collected]
) -> None:
    tracker, shown = start(tmp_path, TrackingConfig(wandb=WandbMode.online))
    train(tracker, collected, 0)
    tracker.close("completed")
    assert "wandb cannot go online, so it stays offline: No API key" in shown.getvalue()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [row["round"] for row in history(file) if "policy/loss" in row] == [0]


def test_a_key_that_was_read_from_a_file_may_end_with_its_newline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "5" + "\n")
    tracker = RunTracker(tmp_path, OFFLINE, {}, "run", 1)
    tracker.log(0, TIMES)
    tracker.close("completed")
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_disabled_leaves_no_trace(tmp_path: Path, collected: list[Collected]) -> None:
    tracker, _ = start(tmp_path)
    train(tracker, collected, 0)
    tracker.close("completed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "summary.json"]


def test_sample_rows_are_spread_over_the_round(collected: list[Collected]) -> None:
    rows = [["a?", "a0"], ["a?", "a1"], ["b?", "b0"], ["b?", "b1"]]
    for num_rows, expected in ((1, rows[:1]), (2, rows[::2]), (3, rows[::2]), (9, rows)):
        samples = sample_tables(0, collected, num_rows)["samples"]
        assert [row[:2] for row in samples.rows] == expected
    tables = sample_tables(0, collected, 4)
    assert tables["samples"].rows[1] == ["a?", "a1", None, "fake@1", False, 0]
    assert [row[0] for row in tables["preferences"].rows] == ["a?", "b?"]
    assert [table.rows for table in sample_tables(0, [], 4).values()] == [[], []]


def test_an_alert_is_told_in_the_terminal_and_by_wandb(
    tmp_path: Path, collected: list[Collected]
) -> None:
    """Of the judge's four judgements two failed, and the gap is over half of its limit."""
    tracker, shown = start(tmp_path, OFFLINE, max_logprob_gap=1e-3)
    for round in range(3):
        metrics = collection_metrics(collected, policy_version=round)
        loss = float("nan") if round == 2 else 0.5
        tracker.log(round, metrics | {"weights/logprob_gap": 6e-4, "policy/loss": loss})
    tracker.close("completed")
    warnings = [line for line in shown.getvalue().splitlines() if line.startswith("warning: ")]
    assert [line.partition(": ")[2][:40] for line in warnings] == [
        "round 0: judge/invalid_rate is 0.5, abov",
        "round 0: weights/logprob_gap is 0.0006, ",
        "round 2: not finite, so null: policy/los",
    ]
    (file,) = (tmp_path / "wandb").rglob("*.wandb")
    alerts = [one.alert for one in sent(file) if one.WhichOneof("record_type") == "alert"]
    assert [(alert.title, alert.level) for alert in alerts] == [
        ("The judge fails", "WARN"),
        ("Rollout workers drift from the policy", "WARN"),
        ("Numbers are not finite", "ERROR"),
    ]
    assert [f"warning: {alert.text}" for alert in alerts] == warnings
    assert {alert.wait_duration for alert in alerts} == {300_000}


def test_what_a_worker_raised_is_told_in_a_line_and_kept_whole(tmp_path: Path) -> None:
    tracker, shown = start(tmp_path, OFF)
    for number in (1, 2):
        text = f"judge-0 on node 7: ValueError: bug {number}"
        tracker.alert(Alert("judge-0 was lost", text, details=f"line {number}\nValueError"))
    tracker.alert(Alert("judge-0 was lost", "judge-0 was killed"))
    tracker.close("completed")
    warnings = [line for line in shown.getvalue().splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: judge-0 on node 7: ValueError: bug 1; see errors.log",
        "warning: judge-0 on node 7: ValueError: bug 2; see errors.log",
        "warning: judge-0 was killed",
    ]
    kept = (tmp_path / "errors.log").read_text()
    assert kept.count("judge-0 on node 7: ") == 2 and "bug 2\nline 2\nValueError\n" in kept


def test_runs_of_a_group_say_so(tmp_path: Path) -> None:
    tracker, _ = start(tmp_path, replace(OFFLINE, group="beta sweep"))
    tracker.close("completed")
    (file,) = (tmp_path / "wandb").rglob("*.wandb")
    (run,) = [one.run for one in sent(file) if one.WhichOneof("record_type") == "run"]
    assert run.run_group == "beta sweep"


def test_secrets_are_masked_and_units_are_not() -> None:
    config = {
        "max_tokens": 5,
        "hf_token": "x",
        "key": "x",
        "judges": [{"apiKey": "x", "api_key": None, "url": "https://me:pass@host/v1"}],
        "aws_secret_access_key": "x",
        "password": 123,
        "tokenizer": "t",
        "monkey": "m",
    }
    assert mask_secrets(config) == {
        "max_tokens": 5,
        "hf_token": "***",
        "key": "***",
        "judges": [{"apiKey": "***", "api_key": None, "url": "https://***@host/v1"}],
        "aws_secret_access_key": "***",
        "password": "***",
        "tokenizer": "t",
        "monkey": "m",
    }


def test_lines_come_first_last_and_once_a_second() -> None:
    shown, now_s = io.StringIO(), 0.0
    terminal = Terminal(9, console=Console(file=shown), clock=lambda: now_s)
    for round in range(8):
        terminal.round(round, {"judge/score_mean": 0.5, "policy/loss": None})
        now_s += 0.4
    terminal.print("a line [longer] " + 30 * "than most ")
    terminal.close()
    lines = shown.getvalue().splitlines()
    assert lines[:3] == [f"round {round}/9 | score 0.500" for round in (1, 4, 7)]
    assert lines[3] == "a line [longer] " + 30 * "than most "
    assert lines[4:] == ["round 8/9 | score 0.500"]


def test_a_terminal_has_a_bar_and_notes_above_it() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, _environ={})
    terminal = Terminal(9, start_round=3, console=console)
    terminal.advance("warm-up", 1, 1, "loss 0.5000")
    terminal.round(3, {"judge/score_mean": 0.5})
    terminal.print("starting 1 rollout worker")
    terminal.close()
    assert "starting 1 rollout worker\n" in shown.getvalue()
    assert "4/9" in shown.getvalue()
    assert "score 0.500" in shown.getvalue()


def test_a_run_that_has_come_to_nothing_is_stopped_if_that_is_asked_for(tmp_path):
    flat = {"preference/count": 0, "preference/dropped_tie": 4}
    going_on, _ = start(tmp_path / "on")
    stopped, shown = start(tmp_path / "off", on_collapse=OnCollapse.stop)
    for round in range(4):
        going_on.log(round, flat)
        stopped.log(round, flat)
    going_on.log(4, flat)
    with pytest.raises(Collapsed, match="round 4: no preference in 5 rounds") as error:
        stopped.log(4, flat)
    assert error.value.since == 0 and "no preference in 5 rounds" in shown.getvalue()
    assert stopped.records()[-1]["round"] == 4
    # A run that goes on knows how long it has been so.
    again, _ = start(tmp_path / "off", on_collapse=OnCollapse.stop, start_round=3)
    again.log(3, flat)
    with pytest.raises(Collapsed):
        again.log(4, flat)
