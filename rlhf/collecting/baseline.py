"""A group ranked by what its completions are worth against one of them.

Zhai et al. 2024 (Online self-preferring language models, arXiv 2405.14103) judge every answer
against one baseline and rank by its win probability, which takes K - 1 comparisons of K answers in
place of K(K - 1)/2. How their strengths become labels of other pairs is read here as Bradley and
Terry have it: P(i beats j) = σ(logit P(i beats the baseline) - logit P(j beats it)).
"""

import asyncio
import math
from collections.abc import Sequence
from statistics import fmean

from rlhf.collecting.matching import Matching, compared
from rlhf.collecting.truncated import Truncated
from rlhf.records import (
    Comparison,
    Completion,
    Judgement,
    Prompt,
    Said,
    Verdict,
    failures_of,
    gathered,
    said_of,
)
from rlhf.stages import Judge

LEAST_PROB = 0.01
"""A win probability is taken to be at least this far from 0 and 1: one comparison is no proof."""


async def against_one(
    judge: Judge, prompt: Prompt, completions: Sequence[Completion], config: Matching
) -> Comparison:
    """Each completion beside the baseline, all at the same time, as one matrix.

    The baseline is the first that was not cut off: drawn like the others, it is in their middle on
    average. What fails beside it has no win probability against anybody.
    """
    whole = [i for i, one in enumerate(completions) if not one.truncated]
    drops = config.truncated is Truncated.drop and len(whole) > 1
    baseline = whole[0] if whole else 0
    others = [i for i in (whole if drops else range(len(completions))) if i != baseline]
    beside = [(completions[i], completions[baseline]) for i in others]
    verdicts = await asyncio.gather(*(judge.judge(prompt, two) for two in beside))
    strengths: list[float | None] = [None] * len(completions)
    said = [Said()] * len(completions)
    strengths[baseline], said[baseline] = 0.0, _of_baseline(verdicts[0])
    for i, two, verdict in zip(others, beside, verdicts, strict=True):
        strengths[i] = _strength(compared(verdict, two, config).win_prob[0][1])
        said[i] = said_of(verdict, 0)
    told = gathered(strengths, verdicts[0].judge, said, failures_of(verdicts))
    return Comparison(
        tuple(tuple(_win_prob(a, b) for b in strengths) for a in strengths),
        f"{told.judge} beside one",
        _disagreement(verdicts),
        told.parts,
        told.reasons,
        told.member_failures,
        sum(verdict.num_written_tokens for verdict in verdicts),
    )


def _of_baseline(verdict: Verdict) -> Said:
    """Scores are its own; how it compares is another with everyone."""
    return said_of(verdict, 1) if isinstance(verdict, Judgement) else Said()


def _strength(win_prob: float | None) -> float | None:
    if win_prob is None:
        return None
    held = min(max(win_prob, LEAST_PROB), 1 - LEAST_PROB)
    return math.log(held / (1 - held))


def _win_prob(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else 0.5 * (1 + math.tanh((a - b) / 2))


def _disagreement(verdicts: Sequence[Verdict]) -> float | None:
    known = [
        one.order_disagreement
        for one in verdicts
        if isinstance(one, Comparison) and one.order_disagreement is not None
    ]
    return fmean(known) if known else None
