"""Unbroken runs, and the same under failures: what came of each, as lines, a table and JSON."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from rlhf.chaos.comparing import differences
from rlhf.chaos.settings import Settings
from rlhf.chaos.striking import Broken, Ended, failures
from rlhf.problems import InputError, RunFailed, some
from rlhf.storage.disk import write_atomically
from rlhf.storage.run_directory import read_summary


class NoComparison(RunFailed):
    """The run does not get to its end by itself."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A run under failures, beside the unbroken one."""

    seed: int
    ended: Ended
    differs: dict[str, str]
    """As `rlhf.chaos.comparing.differences` tells it; empty of a run that did not complete."""
    log: Path

    @property
    def problems(self) -> list[str]:
        """What should not be, a line each."""
        found = []
        if self.ended.code is None:
            found.append(f"did not end in {self.ended.seconds:.0f} s")
        elif self.ended.code:
            found.append(f"ended with exit code {self.ended.code}: {_last_line(self.log)}")
        if self.ended.left:
            found.append(f"left processes behind: {some(self.ended.left)}")
        return found + [f"{what}: {text}" for what, text in self.differs.items() if text]

    @property
    def struck(self) -> str:
        """What happened, in words."""
        counts = Counter(f"{one.how} {one.role}" for one in self.ended.struck)
        words = ", ".join(f"{what} x{n}" if n > 1 else what for what, n in counts.items())
        missing = self.ended.planned - len(self.ended.struck)
        return f"{words} (and {missing} more, but it had ended)" if missing else words

    def as_json(self) -> dict[str, Any]:
        struck = [asdict(one) | {"repeated": one.repeated} for one in self.ended.struck]
        return {
            "seed": self.seed,
            "code": self.ended.code,
            "seconds": self.ended.seconds,
            "planned": self.ended.planned,
            "failures": struck,
            "differences": {what: text for what, text in self.differs.items() if text},
            "problems": self.problems,
        }


def require_room(settings: Settings) -> None:
    """Raises InputError where there are runs of before, to which nothing would happen any more."""
    if there := [one for one in map(settings.directory, settings.seeds) if one.exists()]:
        raise InputError([f"dir={settings.dir}: has {there[0].name} already; choose another seed"])


def unbroken(settings: Settings, overrides: Sequence[str]) -> Path:
    """The directory of the run that nothing happens to; one that is finished is used again."""
    directory = settings.dir.absolute() / "unbroken"
    run = Broken(overrides, directory, limit_s=settings.limit)
    ended = run.through()
    if ended.code:
        raise NoComparison(f"the unbroken run: {_last_line(_log(directory))}")
    if ended.code is None:
        raise NoComparison(f"the unbroken run did not end in {settings.limit:g} s")
    return directory


def trials(
    settings: Settings, overrides: Sequence[str], expected: Path, tell: Callable[[str], None]
) -> Iterator[Trial]:
    """One after another."""
    for seed in settings.seeds:
        directory = settings.directory(seed)
        planned = failures(settings, seed)
        ended = Broken(overrides, directory, planned, settings.limit).through()
        differs = {}
        if ended.code == 0:
            differs = differences(expected, directory, settings.exact)
        trial = Trial(seed, ended, differs, _log(directory))
        tell(f"seed {seed}: {'; '.join(trial.problems) or 'as the unbroken run'}")
        yield trial


def as_table(done: Sequence[Trial]) -> Table:
    table = Table("seed", "failures", "going again after", "repeated", "seconds", "outcome")
    for one in done:
        back = [f"{struck.back_s:.1f} s" if struck.back_s else "-" for struck in one.ended.struck]
        repeated = sum(struck.repeated for struck in one.ended.struck)
        outcome = "; ".join(one.problems) or "equal"
        seconds = f"{one.ended.seconds:.0f}"
        table.add_row(str(one.seed), one.struck, ", ".join(back), str(repeated), seconds, outcome)
    return table


def write_json(
    file: Path, settings: Settings, overrides: Sequence[str], expected: Path, done: Sequence[Trial]
) -> None:
    told = {
        "overrides": list(overrides),
        "every": settings.every,
        "at": settings.at.value,
        "exact": settings.exact,
        "unbroken_s": read_summary(expected)["time_s"]["total"],
        "trials": [one.as_json() for one in done],
    }
    write_atomically(file, json.dumps(told, indent=1) + "\n")


def _log(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.log")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), f"{log} is empty")
