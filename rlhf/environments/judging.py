"""Judging answers of which some have no end, since their environment or a tool has failed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.records import Comparison, Completion, Judgement, Prompt, Verdict
from rlhf.stages import Judge

NAME = "environment"


@dataclass(frozen=True, slots=True)
class EpisodeJudge:
    """`rlhf.stages.Judge` by another one, which is asked about the others alone; those that failed
    count as its failures."""

    asked: Judge
    gives_matrix: bool
    name: str = NAME
    """What stands in records in place of the judge's name where it was not asked."""

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        whole = [i for i, one in enumerate(completions) if not one.failure]
        if len(whole) == len(completions):
            return await self.asked.judge(prompt, completions)
        verdict: Verdict = (Comparison if self.gives_matrix else Judgement)((), self.name)
        if whole:
            verdict = await self.asked.judge(prompt, [completions[i] for i in whole])
        return _spread(verdict, whole, completions)


def _spread(verdict: Verdict, places: Sequence[int], completions: Sequence[Completion]) -> Verdict:
    """The verdict on those at `places` as one on all."""
    size, at = range(len(completions)), {place: i for i, place in enumerate(places)}
    reasons = list(verdict.reasons or [""] * len(places))
    told = tuple(reasons[at[i]] if i in at else completions[i].failure for i in size)
    parts = {
        name: tuple(values[at[i]] if i in at else None for i in size)
        for name, values in verdict.parts.items()
    }
    if isinstance(verdict, Judgement):
        scores = tuple(verdict.scores[at[i]] if i in at else None for i in size)
        more = verdict.additions
        additions = tuple(more[at[i]] if i in at else "" for i in size) if more else ()
        return replace(verdict, scores=scores, parts=parts, reasons=told, additions=additions)
    matrix = tuple(
        tuple(
            0.5 if i == j else verdict.win_prob[at[i]][at[j]] if {i, j} <= at.keys() else None
            for j in size
        )
        for i in size
    )
    return replace(verdict, win_prob=matrix, parts=parts, reasons=told)
