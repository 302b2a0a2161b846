"""What `python -m rlhf.chaos` is told: `key=value` of its own, then `--` and those of a run."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from rlhf.problems import InputError

RUN = "run"
"""The role of the process that started the run: killed, the same command goes on."""
ROLES = {
    "rollout": "RolloutWorker",
    "judge": "JudgeWorker",
    "reference": "ReferenceWorker",
    "policy": "PolicyRank",
    RUN: "",
}
"""What Ray calls their processes."""
USAGE = "python -m rlhf.chaos kill=rollout,policy,judge every=30 -- experiment=demo"
_TAKEN = ("run.dir=", "run.resume=", "hydra.")
"""Overrides that would lead runs into each other's directories."""


class Moment(Enum):
    any = "any"
    publishing = "publishing"
    """A round's preferences are stored, and its weights are on their way."""
    saving = "saving"
    """A checkpoint is being written."""


@dataclass(frozen=True, slots=True)
class Settings:
    kill: tuple[str, ...] = ()
    """Roles whose processes get SIGKILL."""
    stop: tuple[str, ...] = ()
    """Roles whose processes get SIGSTOP: they live, and do nothing more."""
    every: float = 30.0
    """Seconds between failures, on average; each wait is drawn between half of it and one and a
    half."""
    failures: tuple[int, int] = (3, 6)
    """How many a run has: `4`, or drawn from `3..6`, ends included."""
    at: Moment = Moment.any
    seed: int = 0
    runs: int = 1
    """Under failures, with the seeds from `seed` on."""
    exact: bool = True
    """False: weights and numbers may differ, as vLLM's do from run to run."""
    limit: float = 3600.0
    """Seconds after which a run counts as hanging."""
    dir: Path = Path()
    """Where the runs go; with a directory of before, its unbroken run is used again."""

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.runs)

    def directory(self, seed: int) -> Path:
        return self.dir.absolute() / f"seed_{seed}"


def read_settings(words: Sequence[str]) -> tuple[Settings, list[str]]:
    """The settings before `--`, and the run's overrides behind it; raises InputError."""
    if "--" not in words:
        raise InputError([f"--: is missing: what is run stands behind it, as in {USAGE}"])
    place = list(words).index("--")
    own, overrides = words[:place], list(words[place + 1 :])
    problems: list[str] = []
    given: dict[str, Any] = {"dir": Path(time.strftime("outputs/chaos/%Y-%m-%d_%H-%M-%S"))}
    for word in own:
        key, _, value = word.partition("=")
        if key not in _READ:
            problems.append(f"{word}: there is no such setting; there are {', '.join(_READ)}")
            continue
        try:
            given[key] = _READ[key](value)
        except ValueError as error:
            problems.append(f"{word}: {error}")
    settings = replace(Settings(), **given)
    if not problems and not settings.kill and not settings.stop:
        problems.append("kill=, stop=: nothing would happen; name roles, as in kill=rollout,policy")
    problems += [
        f"{word}: is for chaos to choose; dir=DIR says where its runs go"
        for word in overrides
        if word.startswith(_TAKEN)
    ]
    problems += [
        f"{word}: workers of a cluster that is joined are not below the run; leave it out"
        for word in overrides
        if word in ("cluster=auto",) or word.startswith("cluster.address=")
    ]
    if problems:
        raise InputError(problems)
    return settings, overrides


def _roles(value: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(filter(None, value.split(","))))
    if unknown := [role for role in found if role not in ROLES]:
        raise ValueError(f"no role is called {unknown[0]}; there are {', '.join(ROLES)}")
    return found


def _positive(value: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", value) or not float(value):
        raise ValueError("must be a number of seconds above 0")
    return float(value)


def _count(value: str) -> int:
    if not re.fullmatch(r"\d+", value):
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _runs(value: str) -> int:
    if not _count(value):
        raise ValueError("must be at least 1")
    return int(value)


def _span(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", value)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < low <= high:
        raise ValueError("must be a number of failures above 0, or a span such as 3..6")
    return low, high


def _moment(value: str) -> Moment:
    if value not in (known := [one.value for one in Moment]):
        raise ValueError(f"must be one of {', '.join(known)}")
    return Moment(value)


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


def _folder(value: str) -> Path:
    if not value:
        raise ValueError("is empty; name a directory")
    return Path(value).expanduser()


_READ: Mapping[str, Callable[[str], Any]] = {
    "kill": _roles,
    "stop": _roles,
    "every": _positive,
    "failures": _span,
    "at": _moment,
    "seed": _count,
    "runs": _runs,
    "exact": _flag,
    "limit": _positive,
    "dir": _folder,
}
