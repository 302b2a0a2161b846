"""Each role killed, stopped, without memory, and raising an error: first, in the middle, while
weights are published and while a checkpoint is written. Every run ends with the bits of the one
that nothing happened to.

`make test-faults` prints how long each took, and what was done twice.
"""

import json
import os
import sys
from pathlib import Path

import faulty
import pytest
from commands import SMALL, finish
from forked import Forked

from cluster import nursery
from rlhf.chaos.comparing import differences
from rlhf.chaos.settings import ROLES, Moment
from rlhf.chaos.striking import Broken, Ended, Failure
from rlhf.storage.store import read

pytestmark = [pytest.mark.faults, pytest.mark.thorough]
NAMES = ("first", "middle", "publishing", "saving")
ROUNDS = 40
SETTINGS = [
    *SMALL,
    "warmup.steps=200",  # with less it is never right, and nothing is learnt
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
    assert len(read(directory)) > ROUNDS
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


WHERE = {
    "rollout": ("serve", "serve", "load_weights", "serve"),
    "judge": ("serve",) * 4,
    "reference": ("serve",) * 4,
    "policy": ("update", "update", "put_weights", "save"),
}
"""The method that raises, at each moment; that a save has begun is too late for one in it."""


class Raising(Broken):
    """A run whose workers raise what they are told to, where they are told to."""

    def __init__(self, directory: Path, planned: list[Failure], faults: Path) -> None:
        super().__init__(SETTINGS, directory, planned, limit_s=400, module="faulty")
        self._files = [faults / f"{ROLES[p.role]}.{w}" for p in planned[:1] for w in WHERE[p.role]]
        self._is_told = False

    def _strike(self, planned: Failure) -> bool:
        """Whether a worker has taken what it was told."""
        file = self._files[len(self._struck)]
        if not self._is_told:
            file.write_text(planned.how)
            self._is_told = True
        if file.exists():
            return False
        self._is_told = False
        self._note(planned)
        return True


@pytest.mark.parametrize("how", [faulty.RAISE, faulty.MEMORY])
@pytest.mark.parametrize("role", WHERE)
def test_a_role_that_raises_at_any_moment_comes_back(tmp_path, unbroken, monkeypatch, role, how):
    monkeypatch.setenv(faulty.FOLDER, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    planned = [
        one._replace(at=Moment.any) if role == "policy" else one for one in moments(how, role)
    ]
    directory = tmp_path / "run"
    survived(directory, unbroken, Raising(directory, planned, tmp_path).through())
    told = faulty.TEXT if how == faulty.RAISE else "MemoryError"
    log, errors = directory.with_name("run.log").read_text(), (directory / "errors.log").read_text()
    assert sum("is started anew" in line for line in log.splitlines()) == 4
    assert told in log and "faulty.py" not in log
    assert errors.count("faulty.py") >= 4


def survives(directory: Path, unbroken: Path, planned: list[Failure]) -> None:
    survived(directory, unbroken, Broken(SETTINGS, directory, planned, limit_s=400).through())


def survived(directory: Path, unbroken: Path, ended: Ended) -> None:
    assert ended.code == 0, directory.with_name("run.log").read_text()
    for name, one in zip(NAMES, ended.struck, strict=True):
        back = "-" if one.back_s is None else f"{one.back_s:.1f} s"
        print(f"{one.how} {one.role}, {name}: going again after {back}, repeated {one.repeated}")
        assert one.back_s is not None
    assert not any(differences(unbroken, directory).values())
    assert ended.left == []


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
