"""tracking.function: your own tracker, which nothing that happens to it lets harm a run."""

import json
import math
from pathlib import Path

import pytest

from rlhf.config.run import TrackingConfig, WandbMode
from rlhf.problems import InputError
from rlhf.watching import tracking_function
from rlhf.watching.tracking import RunTracker
from rlhf.watching.tracking_function import FunctionTracker

LINES = "import json, pathlib, time\nfile = pathlib.Path(__file__).parent / 'lines'\n"
WRITE = "    with file.open('a') as f: print(json.dumps([round, metrics]), file=f)\n"


def tracked(tmp_path: Path, text: str) -> tuple[FunctionTracker, list[str]]:
    warnings: list[str] = []
    (tmp_path / "own.py").write_text(text)
    return FunctionTracker(f"{tmp_path}/own.py:log", warnings.append), warnings


def lines(tmp_path: Path) -> list:
    return [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]


@pytest.mark.parametrize("define", ["def", "async def"])
def test_every_line_comes_in_order(tmp_path, define):
    own, warnings = tracked(tmp_path, LINES + f"{define} log(round, metrics):\n" + WRITE)
    for round in range(20):
        own.log(round, {"a/b": round / 2, "nan": math.nan})
    own.close()
    own.close()
    assert [round for round, _ in lines(tmp_path)] == list(range(20))
    assert lines(tmp_path)[3][1]["a/b"] == 1.5 and not warnings


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ("raise OSError('full')", "OSError: full (own.py line 5)"),
        ("import os; os._exit(3)", "ended its process, with code 3"),
        ("time.sleep(3600)", "is not done within 2 s"),
    ],
)
def test_a_failure_is_told_once_and_later_lines_come(tmp_path, monkeypatch, fails, told):
    monkeypatch.setattr(tracking_function, "CALL_S", 2.0 if "sleep" in fails else 30.0)
    text = LINES + "def log(round, metrics):\n" + WRITE + f"    if round == 1: {fails}\n"
    own, warnings = tracked(tmp_path, text)
    for round in range(4):
        own.log(round, {})
    own.close()
    assert [round for round, _ in lines(tmp_path)] == [0, 1, 2, 3]
    assert warnings == [f"warning: tracking.function: {told}; training goes on"]


def test_what_is_too_slow_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_function, "LAST_S", 0.2)
    monkeypatch.setattr(tracking_function, "MOST_WAITING", 5)
    own, warnings = tracked(tmp_path, "import time\ndef log(round, metrics): time.sleep(3600)")
    for round in range(10):
        own.log(round, {})
    own.close()
    (warning,) = warnings
    assert "5 lines wait for it, and further ones are left out" in warning


def test_one_that_cannot_start_is_told_before_the_run_and_no_end_of_it(tmp_path):
    own, warnings = tracked(tmp_path, "def log(metrics): pass")
    own.log(0, {})
    own.close()
    (warning,) = warnings
    assert "is called with (round, metrics)" in warning
    with pytest.raises(InputError, match=r"^tracking\.function=absent\.py:log: there is no file"):
        tracking_function.start("absent.py:log")


def test_a_run_s_rounds_and_evaluations_are_told(tmp_path):
    (tmp_path / "own.py").write_text(LINES + "def log(round, metrics):\n" + WRITE)
    config = TrackingConfig(wandb=WandbMode.disabled, function=f"{tmp_path}/own.py:log")
    tracker = RunTracker(tmp_path, config, {}, "name", 2)
    tracker.log_eval(0, {"score_mean": 0.25})
    tracker.log(0, {"policy/loss": 0.5, "time/round_s": 1.0})
    tracker.log_eval(1, {"score_mean": 0.5})
    tracker.close("completed")
    found = [(round, metrics.get("eval/score_mean"), metrics.get("policy/loss"))
             for round, metrics in lines(tmp_path)]  # fmt: skip
    assert found == [(-1, 0.25, None), (0, None, 0.5), (0, 0.5, None)]
