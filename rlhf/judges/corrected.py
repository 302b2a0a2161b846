"""A verifier that is known to err, corrected for how often it does."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rlhf.judges.base import JudgeConfig, Seat
from rlhf.judges.joining import all_failures, all_parts
from rlhf.judges.members import member_problems, needs_of
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Completion, Judgement, Prompt
from rlhf.stages import Judge

MEMBER = "of"


@dataclass
class CorrectedConfig(JudgeConfig):
    """The backward correction of noisy outcomes: (r - p) / (1 - p - q), of r being 0 or 1, p how
    often a wrong answer passes, q how often a right one does not.

    Its mean is then the share that is really right, if the two rates are (Natarajan et al. 2013,
    Learning with noisy labels, Lemma 1). It says nothing of single answers: pairs stay as they are,
    with margins 1 / (1 - p - q) times as wide.
    """

    name: ClassVar[str] = "corrected"

    members: dict[str, JudgeConfig] = field(default_factory=dict)
    """The one judge `of`: `judge@judge.members.of=verifier`."""
    false_positive: float = number(0.1, at_least=0, below=1)
    false_negative: float = number(0.1, at_least=0, below=1)

    def asks(self) -> Mapping[str, JudgeConfig]:
        return self.members

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def needs(self) -> Mapping[Fact, str]:
        return needs_of(self.members)

    def problems(self) -> Iterator[str]:
        if self.members.keys() != {MEMBER}:
            told = ", ".join(self.members) or "none"
            yield f"judge.members: has {told}, and judge=corrected the one member {MEMBER}"
            return
        problems = list(member_problems(self.members))
        yield from problems
        member = self.members[MEMBER]
        if not problems and Fact.outcomes not in member.gives():
            yield (
                f"judge@judge.members.{MEMBER}={member.name}: does not say right or wrong; take "
                "one that does, such as verifier"
            )
        if self.false_positive + self.false_negative >= 1:
            yield (
                f"judge.false_positive={self.false_positive:g} "
                f"judge.false_negative={self.false_negative:g}: with a sum of 1 or more it says "
                "less than a guess; lower either"
            )

    def over(self, members: Mapping[str, Judge]) -> "Corrected":
        return Corrected(self, members[MEMBER])


class Corrected:
    """`rlhf.stages.Judge` over one that says right or wrong, whose own word is the part `of`."""

    def __init__(self, config: CorrectedConfig, judge: Judge) -> None:
        self._judge = judge
        self._rates = config.false_positive, config.false_negative

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Judgement:
        """Missing where it is."""
        found = await self._judge.judge(prompt, completions)
        assert isinstance(found, Judgement), "who says right or wrong gives scores"
        scores = tuple(None if r is None else corrected(r, *self._rates) for r in found.scores)
        told = "{:g},{:g}".format(*self._rates)
        return replace(
            found,
            scores=scores,
            judge=f"corrected({told})/{found.judge}@1",
            parts=all_parts({MEMBER: found}),
            member_failures=all_failures({MEMBER: found}),
        )


def corrected(outcome: float, false_positive: float, false_negative: float) -> float:
    return (outcome - false_positive) / (1 - false_positive - false_negative)
