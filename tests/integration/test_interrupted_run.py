"""Runs that are stopped, killed, or lose a worker, and go on."""

import json
import signal
import time
from pathlib import Path

import pytest
from commands import SMALL, Terminal, finish, kill_worker, run, start, untimed, weights

from rlhf.storage.store import read, read_metrics

pytestmark = pytest.mark.faults


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
    """Where none of them may be started anew."""
    in_memory = "run.memory_checkpoints=1"
    directory, settings = tmp_path / "run", [*ENDLESS, "cluster.max_restarts=0", in_memory]
    done = 0
    for role, process in WORKERS.items():
        begun = start(directory, *settings)
        until_round(directory, done + 2)
        kill_worker(process)
        output = finish(begun, code=1, timeout_s=120)
        assert f"failed: {role}-0 on node" in output and "Traceback" not in output
        assert json.loads((directory / "summary.json").read_text())["status"] == "failed"
        newest = int((directory / "checkpoints" / "LATEST").read_text().removeprefix("round_"))
        # Of the round that the policy has just done, there may be nothing in memory yet.
        assert newest >= done + (1 if role == "policy" else 2)
        done = newest
    last = done + 2
    assert "resuming from" in run(directory, *settings, f"num_rounds={last}")
    assert [one["round"] for one in read_metrics(directory / "metrics.jsonl")] == [*range(-1, last)]


WORKERS = {
    "judge": "JudgeWorker",
    "rollout": "RolloutWorker",
    "reference": "ReferenceWorker",
    "policy": "PolicyRank",
}
"""What Ray calls their processes."""


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
