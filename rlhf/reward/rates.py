"""`python -m rlhf.reward.rates run=DIR`: how often a verifier errs, by the appeals of a run.

The run's judge is `corrected` with a member `appeal`; of one that is itself the member NAME of a
panel, say `member=NAME`. Prints both rates, each with what a 95 % interval of the appeals leaves
open, and writes `output=rates.json` for `judge.rates_file`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import sqrt
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rlhf.judges.rates import CONFIRMED, MEMBER, OVERTURNED, Rates, rates_by_appeals
from rlhf.launching.command_line import told
from rlhf.problems import InputError
from rlhf.storage.disk import write_atomically
from rlhf.storage.run_directory import CONFIG
from rlhf.storage.store import read_metrics

KEYS = ("run", "member", "output")
Z = 1.96


class Share(NamedTuple):
    """Of answers, and among about how many it was seen."""

    value: float
    count: float

    def interval(self) -> tuple[float, float]:
        """Of 95 % (Wilson 1927)."""
        if self.count <= 0:
            return 0.0, 1.0
        share, spread = self.value, Z**2 / self.count
        half = Z * sqrt(share * (1 - share) / self.count + spread / (4 * self.count))
        low, high = (share + spread / 2 - half), (share + spread / 2 + half)
        return max(0.0, low / (1 + spread)), min(1.0, high / (1 + spread))


def mean(rounds: Sequence[tuple[float | None, float]]) -> Share:
    """Of the rounds' shares, each of so many; those that are missing say nothing."""
    known = [(value, count) for value, count in rounds if value is not None]
    total = sum(count for _, count in known)
    if not total:
        return Share(0.0, 0.0)
    return Share(sum(value * count for value, count in known) / total, total)


def audited(records: Sequence[Mapping[str, Any]], prefix: str, appeals: float) -> list[Share]:
    """What passed; of what failed, what the appeal overturned; of what passed, what it confirmed.

    `appeals`: the share that was asked about.
    """
    passed, overturned, confirmed = [], [], []
    for one in records:
        if (share := one.get(f"{prefix}{MEMBER}")) is None:
            continue
        answers = one["rollout/num_completions"]
        passed.append((share, answers))
        overturned.append((one.get(f"{prefix}{OVERTURNED}"), appeals * answers * (1 - share)))
        confirmed.append((one.get(f"{prefix}{CONFIRMED}"), appeals * answers * share))
    return [mean(passed), mean(overturned), mean(confirmed)]


def estimated(passed: Share, overturned: Share, confirmed: Share) -> tuple[Rates, Rates, Rates]:
    """The rates, and the lowest and highest that either appeal leaves open; where nothing that
    passed was asked about, all of it counts as right."""
    sure = (1.0, 1.0) if not confirmed.count else confirmed.interval()
    right = confirmed.value if confirmed.count else 1.0
    ends = [rates_by_appeals(passed.value, a, b) for a in overturned.interval() for b in sure]
    positives, negatives = [one[0] for one in ends], [one[1] for one in ends]
    low, high = Rates(min(positives), min(negatives)), Rates(max(positives), max(negatives))
    return rates_by_appeals(passed.value, overturned.value, right), low, high


def learn(words: Sequence[str]) -> None:
    """The whole command; raises InputError."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    if unknown := given.keys() - set(KEYS):
        raise InputError([f"{key}: there is no such key; there are {', '.join(KEYS)}"
                          for key in sorted(unknown)])  # fmt: skip
    if not given.get("run"):
        raise InputError(["run=DIR: say which run"])
    directory, member = Path(expanduser(given["run"])), given.get("member", "")
    prefix = f"judge/part_{member}." if member else "judge/part_"
    records = read_metrics(directory / "metrics.jsonl")
    passed, overturned, confirmed = audited(records, prefix, _appeals(directory, member))
    if not overturned.count:
        raise InputError(
            [
                f"run={directory}: no answer that failed was appealed; its judge must be corrected "
                "with +judge@judge.members.appeal=..., or name the member that is"
            ]
        )
    rates, low, high = estimated(passed, overturned, confirmed)
    for name in Rates._fields:
        ends = f"{getattr(low, name):.4f} to {getattr(high, name):.4f}"
        print(f"{name:20} {getattr(rates, name):.4f}, from {ends}")
    told_of = round(overturned.count + confirmed.count)
    print(f"by about {told_of} appeals, of {round(passed.count)} answers")
    output = Path(expanduser(given.get("output", "rates.json")))
    write_atomically(output, json.dumps(rates._asdict(), indent=1) + "\n")
    print(f"judge.rates_file={output}")


def _appeals(directory: Path, member: str) -> float:
    """The run's `judge.appeals`."""
    try:
        judge = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))["judge"]
        for name in filter(None, member.split(".")):
            judge = judge["members"][name]
        return float(judge["appeals"])
    except (OSError, KeyError, TypeError) as error:
        raise InputError(
            [f"run={directory}: has no judge=corrected at member={member or 'none'} ({error!r})"]
        ) from error


if __name__ == "__main__":
    with told():
        learn(sys.argv[1:])
