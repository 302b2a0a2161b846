"""Completions of one prompt and what a judge thinks of them, to preferences.

What one `Dropped` counts: TRUNCATED and JUDGE_FAILED a completion, which stands alone under
`rejected`; SHORT_GROUP the whole prompt, with neither side; TIE and IDENTICAL a would-be pair, of
which best_worst and correct_wrong have one per prompt and all_pairs one per two completions.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import NamedTuple

from rlhf.collecting.truncated import Truncated
from rlhf.ranges import number
from rlhf.records import (
    Comparison,
    Completion,
    Dropped,
    DropReason,
    Preference,
    Prompt,
    Side,
    Verdict,
)


class PairRule(Enum):
    best_worst = "best_worst"
    """The best completion over the worst: at most one pair per prompt."""
    all_pairs = "all_pairs"
    """Every strictly ordered pair, weighted so that the prompt counts once."""
    correct_wrong = "correct_wrong"
    """A random completion of the best score over a random one of a lower score."""


@dataclass
class Pairing:
    """Which pairs are made."""

    truncated: Truncated = Truncated.drop
    rule: PairRule = PairRule.best_worst
    min_margin: float = number(0.0, at_least=0)
    """Pairs whose scores differ by no more than this are ties, and dropped."""
    min_group: int = number(2, at_least=2)
    """Prompts with fewer judged completions are dropped."""


class Scored(NamedTuple):
    """A completion that may enter a pair."""

    completion: Completion
    score: float


def pair(
    prompt: Prompt,
    completions: Sequence[Completion],
    judgement: Verdict,
    config: Pairing,
    seed: int,
) -> tuple[tuple[Preference, ...], tuple[Dropped, ...]]:
    """Preferences whose weights sum to 1, unless there are none, and what was dropped on the way.

    `judgement` scores `completions` in their order, which has no other influence: completions are
    ranked by score, best first, and at equal scores by sample index. Under best_worst the first
    meets the last. Identical sides are dropped as such whether or not their scores tie: every
    objective here imitates or prefers a winner, and has nothing to learn where there is none.
    Raises ValueError if the three do not belong together.
    """
    _check_group(prompt, completions, judgement)
    ranked, dropped = _rank(completions, judgement, config.truncated)
    if len(ranked) < config.min_group:
        return (), (*dropped, Dropped(DropReason.SHORT_GROUP))
    kept: list[tuple[Scored, Scored]] = []
    for better, worse in _would_be_pairs(ranked, config, seed):
        if reason := _reason_to_drop(better, worse, config.min_margin):
            dropped.append(Dropped(reason, better.completion, worse.completion))
        else:
            kept.append((better, worse))
    # A completion of many pairs is one side of all of them, also where they travel.
    sides = {one.completion.sample: Side(prompt, *one) for one in ranked}
    preferences = tuple(
        Preference(
            sides[better.completion.sample],
            sides[worse.completion.sample],
            judgement.judge,
            weight=1 / len(kept),
        )
        for better, worse in kept
    )
    return preferences, tuple(dropped)


def _check_group(prompt: Prompt, completions: Sequence[Completion], judgement: Verdict) -> None:
    group = f"prompt {prompt.id!r}"
    strangers = sorted({c.prompt_id for c in completions} - {prompt.id})
    if strangers:
        raise ValueError(f"{group} was given completions of {strangers}")
    if len(judgement.scores) != len(completions):
        raise ValueError(
            f"{group} has {len(completions)} completions but {len(judgement.scores)} scores"
        )
    if len({c.sample for c in completions}) != len(completions):
        raise ValueError(f"{group} has two completions with the same sample index")
    if not all(c.token_ids for c in completions):
        raise ValueError(f"{group} has a completion without tokens, not even an end token")


def _rank(
    completions: Sequence[Completion], judgement: Verdict, truncated: Truncated
) -> tuple[list[Scored], list[Dropped]]:
    """The completions that may enter a pair, best first, and those that may not."""
    usable: list[Scored] = []
    dropped: list[Dropped] = []
    scores = judgement.scores
    if isinstance(judgement, Comparison) and truncated is Truncated.drop:
        # Whom one that takes no part beats, or loses to, is no matter either.
        scores = judgement.scores_among([i for i, c in enumerate(completions) if not c.truncated])
    group = zip(completions, scores, strict=True)
    for completion, score in sorted(group, key=lambda one: one[0].sample):
        if completion.truncated and truncated is Truncated.drop:
            dropped.append(Dropped(DropReason.TRUNCATED, rejected=completion))
        # A score that is not finite cannot be ranked, so the judge did not give one.
        elif score is None or not math.isfinite(score):
            dropped.append(Dropped(DropReason.JUDGE_FAILED, rejected=completion))
        else:
            usable.append(Scored(completion, score))
    if truncated is Truncated.penalise:
        lowest = min((one.score for one in usable), default=0.0)
        usable = [one._replace(score=lowest) if one.completion.truncated else one for one in usable]
    # The sort is stable, so equal scores stay in the order of their sample indices.
    return sorted(usable, key=lambda one: -one.score), dropped


def _would_be_pairs(
    ranked: list[Scored], config: Pairing, seed: int
) -> list[tuple[Scored, Scored]]:
    match config.rule:
        case PairRule.best_worst:
            return [(ranked[0], ranked[-1])]
        case PairRule.all_pairs:
            return list(combinations(ranked, 2))
        case PairRule.correct_wrong:
            return [_correct_wrong(ranked, config.min_margin, random.Random(seed))]


def _correct_wrong(
    ranked: list[Scored], min_margin: float, rng: random.Random
) -> tuple[Scored, Scored]:
    best = ranked[0].score
    correct = [one for one in ranked if one.score == best]
    wrong = [one for one in ranked if best - one.score > min_margin]
    if not wrong:
        return ranked[0], ranked[-1]
    return rng.choice(correct), rng.choice(wrong)


def _reason_to_drop(better: Scored, worse: Scored, min_margin: float) -> DropReason | None:
    if (
        better.completion.token_ids == worse.completion.token_ids
        or better.completion.text == worse.completion.text
    ):
        return DropReason.IDENTICAL
    if better.score - worse.score <= min_margin:
        return DropReason.TIE
    return None
