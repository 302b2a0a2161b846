"""What became of a sweep: a table of its members, the same as JSON, and seeds taken together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf.problems import InputError
from rlhf.storage.disk import write_atomically
from rlhf.storage.reading import read_json
from rlhf.storage.run_directory import SUMMARY
from rlhf.watching.metrics import LOWER_IS_BETTER, headline

EVALUATED = ("before", "after")

COLORS = {"completed": "green", "fits": "green", "failed": "red"}
"""Of a status; others are yellow."""

RECORD = {"directory": str, "overrides": list, "status": str}
"""What is known of every member."""
BEGIN_AGAIN = "begin the sweep again, which knows what is finished"

WIDTH = 140
"""Columns where the output is no terminal."""


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep; the numbers are None where it did not come so far."""

    number: int
    directory: str
    overrides: list[str]
    """Those in which the members differ."""
    status: str
    """completed, failed, or unfinished: running, stopped or killed; of a dry run `fits`."""
    before: float | None
    """What the sweep is compared by, before training; `after` is the last."""
    after: float | None
    num_rounds: int | None
    minutes: float | None
    reason: str | None
    """Of a failure: the words of the command."""

    @property
    def configuration(self) -> str:
        """What several seeds have in common."""
        return " ".join(o for o in self.overrides if not o.startswith("seed=")) or "all"


@dataclass(frozen=True, slots=True)
class Results:
    """The members of a sweep in order."""

    metric: str | None
    """What they are compared by: the headline of the first that was evaluated."""
    members: list[Member]

    @classmethod
    def read(cls, members: Path) -> "Results":
        """From the records of `rlhf.sweep` and the run directories that they name."""
        numbers = sorted(int(path.stem) for path in members.glob("*.json"))
        records = [read_json(members / f"{number}.json", RECORD, BEGIN_AGAIN) for number in numbers]
        summaries = [_summary(record) for record in records]
        evaluations = [
            summary["eval"][when] for when in EVALUATED for summary in summaries if summary
        ]
        metric = next(filter(None, map(headline, evaluations)), None)
        shared = set.intersection(*(set(r["overrides"]) for r in records)) if records[1:] else set()
        rows = zip(numbers, records, summaries, strict=True)
        return cls(metric, [_member(*row, shared, metric) for row in rows])

    def finished(self) -> dict[str, list[float]]:
        """Last evaluations of each configuration's completed members; the best mean first."""
        values: dict[str, list[float]] = {}
        for member in self.members:
            if member.status == "completed" and member.after is not None:
                values.setdefault(member.configuration, []).append(member.after)
        best_is_high = self.metric not in LOWER_IS_BETTER
        return dict(sorted(values.items(), key=lambda item: fmean(item[1]), reverse=best_is_high))

    def write(self, path: Path) -> None:
        """`metric`, and one object per member under `members`."""
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")

    def show(self, console: Console | None = None) -> None:
        """Prints the table, why members failed, and the configurations where there are seeds."""
        console = console or Console()
        if not console.is_terminal:
            console.width = WIDTH
        console.print(self._table())
        for member in self.members:
            if member.reason is not None:
                told = f"{member.number} {' '.join(member.overrides)}\n{_last_of_traceback(member)}"
                console.print(Text(told), soft_wrap=True)
        finished = self.finished()
        if any(len(values) > 1 for values in finished.values()):
            console.print(_table_of_means(finished, self.metric))

    def _table(self) -> Table:
        table = Table("member", "overrides", "status", title_justify="left")
        metric = (self.metric or "evaluation").replace("_", " ")
        for column in (f"{metric} before", "after", "rounds", "minutes"):
            table.add_column(column, justify="right")
        for member in self.members:
            color = COLORS.get(member.status, "yellow")
            table.add_row(
                str(member.number),
                Text(" ".join(member.overrides)),
                Text(member.status, style=color),
                _shown(member.before, "{:.3f}"),
                _shown(member.after, "{:.3f}"),
                _shown(member.num_rounds, "{}"),
                _shown(member.minutes, "{:.1f}"),
            )
        return table


def _summary(record: dict[str, Any]) -> dict[str, Any] | None:
    """Of a member's run; where it is damaged, the record says so."""
    path = Path(record["directory"]) / SUMMARY
    if not path.exists():
        return None
    try:
        return read_json(path, {"eval": dict, "rounds": int, "time_s": dict}, "it is left out here")
    except InputError as error:
        record.setdefault("reason", "; ".join(error.problems))
        return None


def _member(
    number: int,
    record: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    shared: set[str],
    metric: str | None,
) -> Member:
    own = [override for override in record["overrides"] if override not in shared]
    before, after = (summary["eval"][when].get(metric) if summary else None for when in EVALUATED)
    return Member(
        number=number,
        directory=record["directory"],
        overrides=own or list(record["overrides"]),
        status=record["status"],
        before=before,
        after=after,
        num_rounds=summary["rounds"] if summary else None,
        minutes=summary["time_s"]["total"] / 60 if summary else None,
        reason=record.get("reason"),
    )


def _last_of_traceback(member: Member) -> str:
    """The words themselves; of Python's own traceback, which was shown before, the last line."""
    assert member.reason is not None
    if not member.reason.lstrip().startswith(("Traceback", "+ Exception Group")):
        return member.reason
    return member.reason.splitlines()[-1]


def _table_of_means(finished: Mapping[str, Sequence[float]], metric: str | None) -> Table:
    table = Table("configuration", "seeds")
    table.add_column(f"{(metric or '').replace('_', ' ')} after, mean", justify="right")
    table.add_column("± standard deviation", justify="right")
    for configuration, values in finished.items():
        spread = stdev(values) if len(values) > 1 else None
        table.add_row(
            Text(configuration), str(len(values)), f"{fmean(values):.3f}", _shown(spread, "{:.3f}")
        )
    return table


def _shown(value: float | None, how: str) -> str:
    return "" if value is None else how.format(value)
