"""Each role killed and stopped: at the start, in the middle, while weights are published and while
a checkpoint is written. Every run ends with the bits of the one that nothing happened to.

`make test-faults` prints how long each took, and what was done twice.
"""

import json
import os
from pathlib import Path

import pytest
from commands import SMALL, finish
from forked import Forked

from cluster import nursery
from rlhf.chaos.comparing import differences
from rlhf.chaos.settings import Moment
from rlhf.chaos.striking import Broken, Failure

pytestmark = [pytest.mark.faults, pytest.mark.thorough]
ROUNDS = 40
SETTINGS = [
    *SMALL,
    f"num_rounds={ROUNDS}",
    "run.checkpoint_every=5",
    "cluster.silence_s=3",
    "cluster.start_timeout_s=60",  # of one that is stopped while it starts anew
    "policy.num_ranks=2",
    "policy.zero_stage=2",
]


@pytest.fixture(autouse=True)
def a_nursery_of_its_own(monkeypatch):
    """For each run, as people have it: its workers are below the run's own process."""
    monkeypatch.delenv(nursery.SOCKET)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("faults") / "unbroken"
    assert Broken(SETTINGS, directory).through().code == 0
    return directory


def moments(how: str, role: str) -> list[Failure]:
    """First, middle, while publishing, while saving; of several processes the second."""
    return [
        Failure(0.0, how, role),
        Failure(0.0, how, role, pick=0.5, rounds=ROUNDS // 4),
        Failure(0.0, how, role, at=Moment.publishing, rounds=ROUNDS // 2),
        Failure(0.0, how, role, at=Moment.saving, rounds=3 * ROUNDS // 4 - 2),
    ]


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("role", ["rollout", "judge", "reference", "policy"])
def test_a_role_that_is_lost_at_any_moment_comes_back(tmp_path, unbroken, role, how):
    survives(tmp_path / "run", unbroken, moments(how, role))


def test_the_run_itself_killed_at_any_moment_goes_on(tmp_path, unbroken):
    survives(tmp_path / "run", unbroken, moments("kill", "run"))


def survives(directory: Path, unbroken: Path, planned: list[Failure]) -> None:
    ended = Broken(SETTINGS, directory, planned, limit_s=400).through()
    log = directory.with_name("run.log").read_text()
    assert ended.code == 0, log
    for name, one in zip(("first", "middle", "publishing", "saving"), ended.struck, strict=True):
        back = "-" if one.back_s is None else f"{one.back_s:.1f} s"
        print(f"{one.how} {one.role}, {name}: going again after {back}, repeated {one.repeated}")
        assert one.back_s is not None
    assert not any(differences(unbroken, directory).values())
    assert ended.left == 0


def test_the_command_that_does_this_to_any_run(tmp_path):
    file = tmp_path / "found.json"
    words = ["kill=rollout,policy", "every=1", "failures=2", "seed=5", f"dir={tmp_path / 'runs'}"]
    begun = Forked(
        *("rlhf.chaos", *words, "--json", str(file), "--", *SETTINGS),
        cwd=tmp_path,
        env=os.environ,
    )
    output = finish(begun)
    (trial,) = json.loads(file.read_text())["trials"]
    assert trial["seed"] == 5 and len(trial["failures"]) == trial["planned"] == 2
    assert trial["problems"] == [] and "equal" in output
