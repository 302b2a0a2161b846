"""Failures are seeded; a command that is struck is watched to its end."""

import signal
import sys
from pathlib import Path

import psutil

from rlhf.chaos.settings import Settings
from rlhf.chaos.striking import Broken, Failure, failures

RUN = """
import pathlib, sys, time
directory = pathlib.Path(sys.argv[1])
directory.mkdir(exist_ok=True)
file = directory / "metrics.jsonl"
lines = file.read_text().splitlines()[:2] if file.exists() else []
while True:
    file.write_text("".join(line + "\\n" for line in lines))
    time.sleep(0.2)
    if len(lines) == 6:
        break
    lines.append('{"round": %d}' % len(lines))
"""
"""Six rounds; begun again, it goes on after the second."""


def test_equal_seeds_plan_equal_failures_within_their_bounds():
    settings = Settings(kill=("rollout",), stop=("judge",), every=10, failures=(3, 6))
    plans = [list(failures(settings, seed)) for seed in range(40)]
    assert plans == [list(failures(settings, seed)) for seed in range(40)]
    assert {len(plan) for plan in plans} == {3, 4, 5, 6}
    every = [one for plan in plans for one in plan]
    assert {(one.how, one.role) for one in every} == {("kill", "rollout"), ("stop", "judge")}
    assert all(5 <= one.wait_s <= 15 for one in every)


class Other(Broken):
    """Of another command than a run."""

    def __init__(self, directory: Path, code: str, *planned: Failure, **how) -> None:
        super().__init__([], directory, planned, **how)
        self._command = [sys.executable, "-c", code, str(directory)]


def test_a_run_that_is_killed_itself_is_begun_again_and_its_rounds_are_counted(tmp_path):
    ended = Other(tmp_path / "run", RUN, Failure(0.0, "kill", "run", rounds=3)).through()
    assert ended.code == 0 and ended.left == []
    (struck,) = ended.struck
    assert struck.rounds >= 3 and struck.repeated == struck.rounds - struck.lowest > 0
    assert struck.back_s is not None and struck.back_s > 0


def test_a_run_that_does_not_end_is_ended(tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    ended = Other(tmp_path / "run", code, limit_s=0.5).through()
    assert ended.code is None and ended.seconds < 60
    assert not psutil.pid_exists(int((tmp_path / "run.log").read_text()))


def test_a_run_that_somebody_else_kills_has_failed(tmp_path):
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    assert Other(tmp_path / "run", code).through().code == -signal.SIGKILL
