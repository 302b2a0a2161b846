"""Sweeps through Hydra itself, of runs that only end, each in its own way."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
import yaml
from matplotlib.image import imread
from omegaconf import DictConfig

from rlhf.launching.command_line import told
from rlhf.launching.configuration import register_schemas
from rlhf.problems import InputError, RunFailed, Stopped
from rlhf.storage.store import MetricsLog
from rlhf.sweep import __main__ as command
from rlhf.sweep.members import as_member

CONF = Path(__file__).parents[2] / "conf"
ENDS: dict[int, BaseException] = {
    91: InputError(["data.path=x: not there", "seed=91: odd"]),
    92: RunFailed("judge worker 1 died on node 10.0.0.3"),
    93: ZeroDivisionError("what nobody expects"),
    94: ExceptionGroup("tasks", [RunFailed("of a task")]),
    95: KeyboardInterrupt(),
    96: Stopped("after round 3"),
}
"""How runs of these seeds end."""


def run(config: DictConfig, name: str) -> float:
    """Leaves what a run leaves, its accuracy falling with the distance of beta from 0.5."""
    directory = Path(config.run.dir)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "told.json").write_text(json.dumps([name, config.tracking.group]))
    if config.seed in ENDS:
        raise ENDS[config.seed]
    before, after = 0.1 + config.seed / 100, 1 - abs(config.objective.beta - 0.5)
    metric = "sampled_accuracy" if config.eval.gold is None else "gold_sampled_accuracy"
    log = MetricsLog(directory / "metrics.jsonl")
    for round, accuracy in [(-1, before), (3, (before + after) / 2), (7, after)]:
        log.write(round, {f"eval/{metric}": accuracy})
    summary = {
        "status": "completed",
        "rounds": 8,
        "eval": {"before": {metric: before}, "after": {metric: after}},
        "time_s": {"total": 90.0},
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    return after


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def task(composed: DictConfig) -> float:
    return as_member(composed, run)


@pytest.fixture
def sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Path, str]]:
    """Runs a sweep in this process; gives where it is, and what it showed."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    register_schemas()

    def begin(*overrides: str, code: int = 0) -> tuple[Path, str]:
        directory = tmp_path / "sweep"
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        words = ["-m", "experiment=demo", f"hydra.sweep.dir={directory}", *quiet, *overrides]
        monkeypatch.setattr(sys, "argv", ["sweep", *words])
        return directory, ended(capsys, task, code)

    return begin


def ended(capsys: pytest.CaptureFixture[str], command: Callable[[], None], code: int) -> str:
    """What a command showed that ends with this exit code."""
    found = 0
    try:
        with told():
            command()
    except SystemExit as stop:
        found = stop.code
    shown = capsys.readouterr()
    assert found == code, shown
    return shown.out + shown.err


def members(directory: Path) -> list[dict]:
    return json.loads((directory / "sweep.json").read_text())["members"]


def row(output: str, number: int) -> list[str]:
    """A member's row of the table."""
    rows = [line.split("│")[1:-1] for line in output.splitlines() if line.startswith("│")]
    return next([cell.strip() for cell in r] for r in rows if r[0].strip() == str(number))


def test_members_that_finish_are_compared_and_the_sweep_ends_well(sweep):
    directory, output = sweep("objective.beta=0.4,0.5", "seed=1,2")
    assert row(output, 1) == ["1", "objective.beta=0.4 seed=2", "completed", "0.120", "0.900",
                              "8", "1.5"]  # fmt: skip
    assert [member["after"] for member in members(directory)] == [0.9, 0.9, 1.0, 1.0]
    means = [line for line in output.splitlines() if line.startswith("│ objective.beta")]
    assert [line.split("│")[1].strip() for line in means] == [
        "objective.beta=0.5",
        "objective.beta=0.4",
    ]
    # Each configuration has its colour in the picture.
    pixels = (imread(directory / "sweep.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for color in ((0x00, 0x72, 0xB2), (0xE0, 0x7B, 0x00)):
        assert (abs(pixels - color).max(axis=1) <= 2).sum() > 200


def test_members_with_a_gold_judge_are_compared_by_it(sweep):
    # In a picture, what stands between dollars would be a formula, and this one is none.
    words = ("+judge@eval.gold=verifier", "tracking.project=$x_1_2$,b")
    directory, output = sweep("seed=1,2", *words)
    assert "gold sampled accuracy before" in output and row(output, 1)[4] == "0.600"
    assert (directory / "sweep.png").exists()


def test_a_damaged_summary_costs_the_numbers_of_its_own_member_alone(sweep, monkeypatch, capsys):
    directory, _ = sweep("seed=1,2")
    (directory / "0" / "summary.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["rlhf.sweep", str(directory)])
    shown = ended(capsys, command.main, code=0)
    assert row(shown, 0)[3:5] == ["", ""] and row(shown, 1)[3] == "0.120"
    assert f"{directory}/0/summary.json: cannot be read" in shown


def test_each_member_has_its_own_directory_group_and_name(sweep):
    directory, _ = sweep("objective.beta=0.4", "seed=1,2", "num_rounds=8")
    told = [json.loads((directory / str(n) / "told.json").read_text()) for n in range(2)]
    assert told == [["seed=1", "sweep"], ["seed=2", "sweep"]]


def test_one_failure_of_any_kind_does_not_end_the_others(sweep):
    directory, output = sweep("seed=1,91,92,93,94,2", code=1)
    statuses = [member["status"] for member in members(directory)]
    assert statuses == ["completed", "failed", "failed", "failed", "failed", "completed"]
    reasons = [member["reason"] for member in members(directory)]
    assert reasons[1] == "error: data.path=x: not there\nerror: seed=91: odd"
    assert reasons[2] == "failed: judge worker 1 died on node 10.0.0.3"
    assert reasons[3].startswith("Traceback") and reasons[3].endswith("what nobody expects")
    assert reasons[4] == "failed: of a task"
    after_table = output.rpartition("┘")[0].rpartition("└")[0] + output.rpartition("┘")[2]
    for words in ("error: seed=91: odd", reasons[2], "ZeroDivisionError: what nobody expects"):
        assert words in after_table
    assert output.rstrip().endswith("failed: 4 of 6 members did not finish")


@pytest.mark.parametrize(("seed", "code", "words"), [(95, 130, "stopped"), (96, 143, "goes on")])
def test_an_interrupt_ends_the_sweep_and_leaves_what_is_needed_to_compare(
    sweep, capsys, monkeypatch, seed, code, words
):
    directory, output = sweep(f"seed=1,{seed},2", code=code)
    assert output.rstrip().endswith(words) and not (directory / "2").exists()
    monkeypatch.setattr(sys, "argv", ["rlhf.sweep", str(directory)])
    shown = ended(capsys, command.main, code=0)
    assert row(shown, 1)[2] == "unfinished"
    assert [member["status"] for member in members(directory)] == ["completed", "unfinished"]


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("run.dir=/data/mine", "say hydra.sweep.dir=/data/mine instead"),
        ("hydra.sweep.subdir=same", "let it depend on ${hydra:job.num}"),
    ],
)
def test_a_directory_that_members_would_share_is_refused_before_anything(sweep, override, advice):
    directory, output = sweep("seed=1,2", override, code=2)
    line = output.rstrip()
    assert line.startswith(f"error: {override}: a sweep's members cannot share it")
    assert advice in line and not directory.exists()


def test_a_directory_for_each_member_may_be_given_and_a_group(sweep):
    directory, _ = sweep("seed=1,2", "run.dir='${hydra:sweep.dir}/mine_${seed}'",
                         "tracking.group=mine")  # fmt: skip
    assert [Path(member["directory"]).name for member in members(directory)] == ["mine_1", "mine_2"]
    name, group = json.loads((directory / "mine_1" / "told.json").read_text())
    assert group == "mine" and "seed=1" in name


def test_a_key_that_is_unknown_is_told_before_any_member_starts(sweep):
    directory, output = sweep("objective.betta=0.1,0.2", code=2)
    assert "error: objective.betta: there is no such key; did you mean objective.beta?" in output
    assert list((directory / "members").iterdir()) == []


def test_a_sweep_begun_again_shows_its_own_members_alone(sweep):
    sweep("seed=1,2,93", code=1)
    directory, output = sweep("seed=1,2")
    assert len(members(directory)) == 2 and "failed" not in output


def test_a_sweep_without_any_evaluation_has_no_picture_but_a_table(sweep):
    directory, output = sweep("seed=91,92", code=1)
    assert not (directory / "sweep.png").exists() and row(output, 0)[2] == "failed"


# --- other samplers and launchers: the extra `sweeps` -------------------------------------------


def test_members_may_run_in_several_processes_at_once(sweep):
    directory, output = sweep(
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,92,2", code=1
    )
    statuses = [member["status"] for member in members(directory)]
    assert statuses == ["completed", "failed", "completed"]
    assert ENDS[92].args[0] in output[output.index("┏") :]


def test_optuna_raises_what_a_run_returns_and_survives_failures(sweep):
    directory, _ = sweep(
        "hydra/sweeper=optuna",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.sampler.seed=1",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.n_trials=12",
        "objective.beta=interval(0.1,0.9)",
        "seed=choice(1,92)",
        code=1,
    )
    tried = members(directory)
    assert {member["status"] for member in tried} == {"completed", "failed"}
    best = yaml.safe_load((directory / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(m["after"] for m in tried if m["status"] == "completed")
    assert best["best_params"]["seed"] == 1


def test_a_dry_run_leaves_a_sweep_s_records_alone(sweep):
    directory, _ = sweep("seed=1,92", code=1)
    before = {path: path.read_bytes() for path in (directory / "members").iterdir()}
    _, output = sweep("seed=1,92", "dry_run=true", code=1)
    assert output.count("fits") == 1 and "1 of 2 members would not start" in output
    assert {path: path.read_bytes() for path in (directory / "members").iterdir()} == before
    assert not (directory / "dry_run").exists()
