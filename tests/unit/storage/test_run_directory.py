"""Who may use a run directory, and whether a run goes on or begins."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.collecting.curators.agreement import AgreementConfig
from rlhf.config.models import TinyModelConfig, TransformersRolloutConfig
from rlhf.config.run import Resume
from rlhf.judges.verifier import VerifierConfig
from rlhf.launching.checks import plain
from rlhf.launching.configuration import Config
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.simpo import SimPOConfig
from rlhf.problems import InputError
from rlhf.storage.ledger import Ledger
from rlhf.storage.round_checkpoints import RoundCheckpoints
from rlhf.storage.run_directory import begin_or_resume, claimed, last_of_finished, require_place


def config(**changes) -> dict:
    """A whole configuration as plain values; `run__dir=x` sets `run.dir`."""
    whole = Config(
        algorithm=OnlineDPOConfig(),
        objective=DPOConfig(),
        judge=VerifierConfig(),
        model=TinyModelConfig(),
        data=ArithmeticConfig(),
        rollout=TransformersRolloutConfig(),
    )
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = whole
        for part in sections:
            section = getattr(section, part)
        setattr(section, name, value)
    return plain(whole)


def refusal(directory: Path, resume: Resume = Resume.auto, **changes) -> list[str]:
    before = sorted(path.relative_to(directory) for path in directory.rglob("*"))
    with pytest.raises(InputError) as caught:
        begin_or_resume(directory, resume, config(**changes))
    assert sorted(path.relative_to(directory) for path in directory.rglob("*")) == before
    return caught.value.problems


class FakePolicy:
    async def save(self, directory: Path) -> None:
        (directory / "weights").write_bytes(b"1234")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """What a run leaves that was killed before its first checkpoint."""
    begin_or_resume(tmp_path, Resume.auto, config())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(), sort_keys=False))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "preferences").mkdir()
    (tmp_path / "preferences" / "round_000000.parquet").touch()
    return tmp_path


@pytest.fixture
def saved(begun: Path) -> Path:
    """With checkpoints after 4 and 8 rounds."""
    checkpoints = RoundCheckpoints(
        begun / "checkpoints", FakePolicy(), Ledger(begun), keep=2, state={}
    )
    for num_rounds in (4, 8):
        asyncio.run(checkpoints.save(num_rounds))
    return begun


SUMMARY = {"status": "completed", "rounds": 8, "eval": {"before": {}, "after": {"score_mean": 1.0}}}

# --- claims -------------------------------------------------------------------------------------

CLAIM = """
import sys
from pathlib import Path
from rlhf.storage.run_directory import claimed

with claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process that holds the directory until its input ends."""
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_a_directory_in_use_is_refused_and_its_user_named(tmp_path, other):
    with (
        pytest.raises(InputError, match=rf"in use by process {other.pid} on \S+; choose"),
        claimed(tmp_path),
    ):
        pass


def test_what_is_no_place_for_a_run_is_refused_and_nothing_is_made(tmp_path):
    require_place(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for place in ("file", "file/run"):
        told = rf"run.dir={tmp_path}/{place}: {tmp_path}/file cannot be written to \(Not a dir"
        with pytest.raises(InputError, match=told):
            require_place(tmp_path / place)


def test_a_sweep_s_place_has_another_name(tmp_path):
    (tmp_path / "file").touch()
    told = rf"^hydra.sweep.dir={tmp_path}/file: cannot be written \(File exists\)"
    with pytest.raises(InputError, match=told), claimed(tmp_path / "file", "hydra.sweep.dir"):
        pass


def test_where_files_cannot_be_locked_it_says_so(tmp_path, monkeypatch):
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuses)
    told = r"cannot be claimed, since files are not locked there \(No locks available\); choose"
    with pytest.raises(InputError, match=told), claimed(tmp_path):
        pass


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_claim_ends_with_its_process_however_that_ends(tmp_path, other, end):
    if end == "done":
        other.stdin.close()
    else:
        other.send_signal(signal.SIGKILL)
    other.wait(timeout=10)
    with claimed(tmp_path):
        pass


def test_a_claim_ends_with_its_block_also_by_an_error(tmp_path):
    with pytest.raises(RuntimeError), claimed(tmp_path / "new" / "run"):
        raise RuntimeError
    with claimed(tmp_path / "new" / "run"):
        pass


def test_a_directory_that_cannot_be_written_is_the_user_s_to_correct(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"run\.dir=.*file/run: cannot be written \(Not a dir"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass


# --- going on or beginning ----------------------------------------------------------------------


@pytest.mark.parametrize("resume", [Resume.auto, Resume.never])
def test_an_empty_directory_begins_a_run(tmp_path, resume):
    assert begin_or_resume(tmp_path, resume, config()) is None


def test_an_empty_directory_has_nothing_that_must_go_on(tmp_path):
    assert "has no complete checkpoint" in refusal(tmp_path, Resume.must)[0]


def test_a_run_without_a_checkpoint_begins_anew(begun):
    (begun / "notes.txt").write_text("mine")
    names = {path.name for path in begun.iterdir() if not path.name.startswith(".")}
    assert begin_or_resume(begun, Resume.auto, config()) is None
    left = {path.name for path in begun.iterdir() if not path.name.startswith(".")}
    assert left == {"config.yaml", "notes.txt", "earlier_1"}
    aside = {path.name for path in (begun / "earlier_1").iterdir()}
    assert aside == names - left and "metrics.jsonl" in aside


def test_what_two_starts_left_is_set_aside_twice(begun, capsys):
    for number in (1, 2):
        (begun / "metrics.jsonl").write_text(str(number))
        assert begin_or_resume(begun, Resume.auto, config()) is None
        assert (begun / f"earlier_{number}" / "metrics.jsonl").read_text() == str(number)
        assert f"what it left is in earlier_{number}/" in capsys.readouterr().out
    assert begin_or_resume(begun, Resume.auto, config()) is None
    assert not (begun / "earlier_3").exists() and not capsys.readouterr().out


def test_a_run_without_a_checkpoint_cannot_be_what_must_go_on(begun):
    assert "has no complete checkpoint" in refusal(begun, Resume.must)[0]


@pytest.mark.parametrize("resume", [Resume.auto, Resume.must])
def test_a_run_with_a_checkpoint_goes_on_from_the_newest(saved, resume):
    checkpoint = begin_or_resume(saved, resume, config())
    assert checkpoint.state["num_rounds"] == 8
    assert (saved / "metrics.jsonl").exists()


def test_never_refuses_a_run_with_or_without_a_checkpoint(begun, saved):
    for directory in (begun, saved):
        assert "holds a run already" in refusal(directory, Resume.never)[0]


@pytest.mark.parametrize("resume", [Resume.auto, Resume.must])
def test_a_damaged_checkpoint_is_not_passed_over(saved, resume):
    (saved / "checkpoints" / "round_000008" / "weights").write_bytes(b"1235")
    (problem,) = refusal(saved, resume)
    assert problem.startswith(f"run.resume={resume.value}: ") and "round_000008/weights" in problem
    newest = saved / "checkpoints" / "round_000008"
    assert problem.endswith(f": delete {newest} to go on from round_000004, which is complete")


GARBAGE = [b"{}", b"[1]", b"null", b"\x00\xff", b"{", b"[" * 10_000, b'"x"', b""]


@pytest.mark.parametrize("content", GARBAGE, ids=lambda content: str(content[:4]))
@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_a_damaged_file_is_named_in_one_line(saved, name, content):
    (saved / "summary.json").write_text(json.dumps(SUMMARY))
    (saved / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        last_of_finished(saved, Resume.auto, config(num_rounds=8))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{saved / name}: ") and "\n" not in problem
    if name == "config.yaml":
        assert refusal(saved) == [problem]


def test_a_summary_without_its_evaluation_is_damaged(saved):
    (saved / "summary.json").write_text(json.dumps(SUMMARY | {"eval": {"after": None}}))
    with pytest.raises(InputError, match=r"summary\.json: is damaged \(no eval\.after\)"):
        last_of_finished(saved, Resume.auto, config(num_rounds=8))


@pytest.mark.parametrize("resume", [Resume.auto, Resume.never])
@pytest.mark.parametrize("name", ["wandb", "model", "checkpoints", "policy"])
def test_what_no_run_made_is_never_removed(tmp_path, resume, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "years of work").touch()
    (problem,) = refusal(tmp_path, resume)
    assert problem.startswith(f"run.dir={tmp_path}: has {name}, which no run")


def test_a_run_that_was_killed_while_it_was_set_up_begins_anew(tmp_path):
    begin_or_resume(tmp_path, Resume.auto, config())
    (tmp_path / "model").mkdir()
    assert begin_or_resume(tmp_path, Resume.auto, config()) is None
    assert not (tmp_path / "model").exists() and (tmp_path / "earlier_1" / "model").exists()


# --- another configuration ----------------------------------------------------------------------


def test_every_changed_key_is_refused_by_name_with_both_values(saved):
    changes = {"objective__beta": 0.5, "algorithm__min_margin": 0.25, "seed": 7}
    problems = refusal(saved, **changes)
    assert [problem.split(": ")[0] for problem in problems] == [
        "algorithm.min_margin=0.25",
        "objective.beta=0.5",
        "seed=7",
    ]
    assert "has 0.1;" in problems[1] and "has 1;" in problems[2]


def test_a_group_that_the_run_did_not_know_matters_once_something_is_chosen_of_it(saved):
    stored = yaml.safe_load((saved / "config.yaml").read_text())
    assert stored.pop("curator") == {}
    (saved / "config.yaml").write_text(yaml.safe_dump(stored))
    assert begin_or_resume(saved, Resume.must, config()) is not None
    with pytest.raises(InputError) as caught:
        begin_or_resume(saved, Resume.must, config(curator=AgreementConfig()))
    assert any(line.startswith("curator.min_share=0.7: ") for line in caught.value.problems)


def test_another_choice_of_a_group_is_refused(saved):
    problems = refusal(saved, objective=SimPOConfig())
    assert [problem.split(": ")[0] for problem in problems] == [
        "objective.anchor=None",
        "objective.beta=2.0",
        "objective.label_smoothing=None",
        "objective.margin=0.5",
        "objective.nll_coef=None",
    ]


def test_what_does_not_change_the_learning_may_change(saved):
    checkpoint = begin_or_resume(
        saved,
        Resume.auto,
        config(
            num_rounds=500,
            run__checkpoint_every=7,
            eval__every=3,
            tracking__project="other",
            cluster__address="auto",
            placement__gpus=True,
            experiment="demo",
        ),
    )
    assert checkpoint.state["num_rounds"] == 8


# --- finished runs ------------------------------------------------------------------------------


def summarize(directory: Path, status: str = "completed") -> None:
    evaluation = {"before": {"score_mean": 0.25}, "after": {"score_mean": 0.75}}
    summary = {"status": status, "rounds": 100, "eval": evaluation}
    (directory / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("resume", [Resume.auto, Resume.must])
@pytest.mark.parametrize("num_rounds", [40, 100])
def test_a_run_with_enough_rounds_is_finished(saved, resume, num_rounds):
    summarize(saved)
    assert last_of_finished(saved, resume, config(num_rounds=num_rounds)) == {"score_mean": 0.75}


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_run_that_did_not_complete_is_not_finished(saved, status):
    summarize(saved, status)
    assert last_of_finished(saved, Resume.auto, config()) is None


def test_a_run_that_is_to_go_on_or_that_must_not_is_not_finished(saved):
    summarize(saved)
    assert last_of_finished(saved, Resume.auto, config(num_rounds=101)) is None
    assert last_of_finished(saved, Resume.never, config()) is None


def test_without_a_run_or_its_summary_nothing_is_finished(tmp_path, saved):
    assert last_of_finished(tmp_path / "none", Resume.auto, config()) is None
    assert last_of_finished(saved, Resume.auto, config()) is None


def test_a_finished_run_of_another_configuration_is_no_answer(saved):
    summarize(saved)
    with pytest.raises(InputError, match=r"seed=7: the run in .* has 1"):
        last_of_finished(saved, Resume.auto, config(seed=7))
