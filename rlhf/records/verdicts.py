"""What a judge thinks of one group of completions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite
from typing import NamedTuple, Protocol

from rlhf.records.pickling import sent_often

Parts = Mapping[str, tuple[float | None, ...]]
"""What a verdict is made of, by name: a number per completion, None where that part is missing."""
Failures = Mapping[str, tuple[bool, ...]]
"""Of the judges that another one asks, by name as their parts have it: of everything that each was
asked itself, whether it failed to answer."""


@sent_often
@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge thinks of one group of completions."""

    scores: tuple[float | None, ...]
    """One per completion, higher is better; None where the judge itself failed."""
    judge: str
    """Name and version, such as `verifier/integer@1`."""
    parts: Parts = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Why, in a few words per completion, empty where there is nothing to say; or none at all."""
    member_failures: Failures = field(default_factory=dict)
    additions: tuple[str, ...] = ()
    """What belongs behind each completion where it is a side of a pair, such as a test, empty where
    nothing does; or none at all."""
    num_written_tokens: int = 0
    """That the policy generated to be judged by, such as tests."""

    def __post_init__(self) -> None:
        _check_parts(self.judge, len(self.scores), self.parts, self.reasons)
        if self.additions and len(self.additions) != len(self.scores):
            raise ValueError(
                f"{self.judge} gives {len(self.additions)} additions for {len(self.scores)} "
                "completions"
            )

    @property
    def failed(self) -> tuple[bool, ...]:
        """Of everything that the judge was asked, whether it failed to answer."""
        return tuple(score is None or not isfinite(score) for score in self.scores)


@sent_often
@dataclass(frozen=True, slots=True)
class Comparison:
    """What a pairwise judge thinks of one group of completions."""

    win_prob: tuple[tuple[float | None, ...], ...]
    """[i][j]: the probability that completion i is preferred to j, so that [i][j] + [j][i] = 1 and
    [i][i] = 1/2; None where the judge itself failed."""
    judge: str
    """Name and version."""
    order_disagreement: float | None = None
    """Mean distance between the two probabilities that one pair got in its two orders; None for a
    judge that sees no order. 1 for a judge that always prefers what it reads first."""
    parts: Parts = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """As in `Judgement`."""
    member_failures: Failures = field(default_factory=dict)
    num_written_tokens: int = 0

    def __post_init__(self) -> None:
        _check_parts(self.judge, len(self.win_prob), self.parts, self.reasons)
        for i, row in enumerate(self.win_prob):
            for j, value in enumerate(row):
                other = self.win_prob[j][i]
                if (value is None) != (other is None) or (
                    value is not None and other is not None and abs(value + other - 1) > 1e-6
                ):
                    raise ValueError(
                        f"{self.judge} prefers {i} to {j} with {value} and {j} to {i} with {other}"
                    )

    @property
    def failed(self) -> tuple[bool, ...]:
        """Of everything that the judge was asked, whether it failed to answer: once per pair."""
        size = range(len(self.win_prob))
        return tuple(self.win_prob[i][j] is None for i, j in combinations(size, 2))

    @property
    def scores(self) -> tuple[float | None, ...]:
        """Each completion's mean win probability against the others; None if it has none."""
        return self.scores_among(range(len(self.win_prob)))

    def scores_among(self, playing: Sequence[int]) -> tuple[float | None, ...]:
        """Each completion's score where only those at the places `playing` take part."""
        played = [self.played(i, playing) for i in range(len(self.win_prob))]
        return tuple(sum(values) / len(values) if values else None for values in played)

    def played(self, place: int, playing: Sequence[int]) -> list[float]:
        """A completion's win probabilities against the others at `playing`, as far as they are
        known; 1/2, which it has against itself, if there are no others."""
        others = [self.win_prob[place][j] for j in playing if j != place]
        return [value for value in others if value is not None] if others else [0.5]


def _check_parts(judge: str, size: int, parts: Parts, reasons: Sequence[str]) -> None:
    for name, values in parts.items():
        if len(values) != size:
            raise ValueError(f"{judge} gives {len(values)} values of {name} for {size} completions")
    if reasons and len(reasons) != size:
        raise ValueError(f"{judge} gives {len(reasons)} reasons for {size} completions")


Verdict = Judgement | Comparison
"""What a judge gives: scores, or every two completions compared."""


class Said(NamedTuple):
    """What a verdict says of one completion beside its score."""

    parts: Mapping[str, float | None] = {}
    reason: str = ""


def said_of(verdict: Verdict, place: int) -> Said:
    """Of the completion at that place of its group."""
    parts = {name: values[place] for name, values in verdict.parts.items()}
    return Said(parts, verdict.reasons[place] if verdict.reasons else "")


class HasFailures(Protocol):
    """A verdict, or what was made of several."""

    @property
    def member_failures(self) -> Failures: ...


def failures_of(verdicts: Iterable[HasFailures]) -> dict[str, tuple[bool, ...]]:
    """Of the judges that were asked for them, one verdict after the other."""
    found: dict[str, tuple[bool, ...]] = {}
    for verdict in verdicts:
        for name, failed in verdict.member_failures.items():
            found[name] = found.get(name, ()) + failed
    return found


def gathered(
    scores: Sequence[float | None],
    judge: str,
    said: Sequence[Said],
    failures: Failures,
    num_written_tokens: int = 0,
) -> Judgement:
    """Of completions that were not judged as one group; a part that one of them lacks is missing.

    `failures` and tokens are those of everything that was asked.
    """
    names = dict.fromkeys(name for one in said for name in one.parts)
    parts = {name: tuple(one.parts.get(name) for one in said) for name in names}
    reasons = tuple(one.reason for one in said) if any(one.reason for one in said) else ()
    return Judgement(
        tuple(scores), judge, parts, reasons, failures, num_written_tokens=num_written_tokens
    )
