"""A pairwise judge's verdict on one group, to labelled pairs.

What one `Dropped` counts: TRUNCATED a completion, which stands alone under `rejected`; SHORT_GROUP
the whole prompt, with neither side; IDENTICAL and TIE a would-be pair, where the objective does not
learn from ties; JUDGE_FAILED a completion or a would-be pair.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    Judgement,
    Preference,
    Prompt,
    Verdict,
)

_LEAST_PROB = 1e-6
"""Log-odds are those of a probability at least this far from 0 and 1."""


class SelfPlayRule(Enum):
    best_worst = "best_worst"
    """The completion of the best score over that of the worst."""
    all_pairs = "all_pairs"
    """Every two completions, weighted so that the prompt counts once; where the policy meets the
    initial policy or a mixture, every two of different sides."""
    iid = "iid"
    """The first with the second, the third with the fourth, and so on: independent pairs."""
    ranked = "ranked"
    """The best with the worst, the next best with the next worst, and so on, where each was judged
    beside one of them alone."""


class Label(Enum):
    soft = "soft"
    """The judge's win probability itself."""
    hard = "hard"
    """The likelier winner wins for certain."""
    sampled = "sampled"
    """The winner is drawn with the win probability, and then wins for certain."""


class Score(Enum):
    win_prob = "win_prob"
    """Mean probability of winning against the group."""
    log_odds = "log_odds"
    """Mean log-odds of winning against the group."""


@dataclass
class Matching:
    """Which completions of a group play each other, and how that is labelled."""

    truncated: Truncated = Truncated.drop
    rule: SelfPlayRule = SelfPlayRule.best_worst
    label: Label = Label.soft
    score: Score = Score.win_prob
    include_self: bool = True
    """Count a completion's tie with itself in its score, as SPPO does."""
    bt_temperature: float = number(1.0, at_least=0)
    """Turns a judge's scores into P = σ(difference / temperature) where it gives no matrix; at 0
    the higher score wins for certain."""


def compared(verdict: Verdict, completions: Sequence[Completion], config: Matching) -> Comparison:
    """The verdict as a matrix; under `penalise` a truncated completion loses to every other.

    Scores become P = σ(difference / `bt_temperature`) (Bradley and Terry 1952): a matrix that can
    hold no cycle. At temperature 0 the higher score wins for certain, and equal ones tie.
    """
    comparison = verdict
    if isinstance(verdict, Judgement):
        rows = tuple(
            tuple(_bradley_terry(a, b, config.bt_temperature) for b in verdict.scores)
            for a in verdict.scores
        )
        told = (verdict.parts, verdict.reasons, verdict.member_failures, verdict.num_written_tokens)
        comparison = Comparison(rows, verdict.judge, None, *told)
    assert isinstance(comparison, Comparison)
    if config.truncated is not Truncated.penalise:
        return comparison
    cut = [completion.truncated for completion in completions]
    rows = tuple(
        tuple(
            value if cut[i] is cut[j] else float(cut[j])
            for j, value in enumerate(row)
        )
        for i, row in enumerate(comparison.win_prob)
    )  # fmt: skip
    return replace(comparison, win_prob=rows)


def _bradley_terry(a: float | None, b: float | None, temperature: float) -> float | None:
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return None
    if temperature == 0:
        return 0.5 + 0.5 * ((a > b) - (a < b))
    return 0.5 * (1 + math.tanh((a - b) / (2 * temperature)))


def side_scores(
    comparison: Comparison, config: Matching, playing: Sequence[int]
) -> list[float | None]:
    """What each completion is worth against those at the places `playing`; None if it was compared
    with none of them.

    With `include_self`, a completion's tie with itself counts too (Wu et al. 2024, arXiv
    2405.00675, Eq. 4.9, takes its K samples for the opponent, and each is one of them).
    """
    means = []
    for i in range(len(comparison.win_prob)):
        others = comparison.played(i, playing)
        played = [*others, 0.5] if config.include_self and others else others
        worth = played if config.score is Score.win_prob else [_log_odds(p) for p in played]
        means.append(sum(worth) / len(worth) if worth else None)
    return means


def _log_odds(win_prob: float) -> float:
    held = min(max(win_prob, _LEAST_PROB), 1 - _LEAST_PROB)
    return math.log(held / (1 - held))


class Player(NamedTuple):
    """A completion that may enter a pair, and its place in the matrix."""

    index: int
    completion: Completion
    score: float


class Labelled(NamedTuple):
    """A would-be pair."""

    chosen: Player
    rejected: Player
    win_prob: float
    """Probability that `chosen` is preferred."""
    tie: DropReason | None = None
    """TIE or IDENTICAL where nobody wins, and only some objectives have something to learn."""


def match(
    prompt: Prompt,
    completions: Sequence[Completion],
    comparison: Comparison,
    config: Matching,
    learns_from_ties: bool,
    seed: int,
) -> tuple[tuple[Preference, ...], tuple[Dropped, ...]]:
    """Preferences whose weights sum to 1, unless there are none, and what was dropped on the way.

    Which side is `chosen` follows the label, and under `soft` the score (best_worst) or the win
    probability; of a tie it is the earlier one. `learns_from_ties` is the objective's: it keeps
    pairs that nobody wins, equal texts with 1/2 whatever the label. Raises ValueError if matrix and
    completions differ in number.
    """
    if len(comparison.win_prob) != len(completions):
        raise ValueError(
            f"prompt {prompt.id!r} has {len(completions)} completions but a matrix of "
            f"{len(comparison.win_prob)}"
        )
    players, dropped = _players(completions, comparison, config)
    if len(players) < 2:
        return (), (*dropped, Dropped(DropReason.SHORT_GROUP))
    rng = random.Random(seed)
    kept: list[Labelled] = []
    for a, b in _would_be_pairs(players, config.rule):
        found = _label(a, b, comparison.win_prob[a.index][b.index], config, rng)
        if found is None:
            dropped.append(Dropped(DropReason.JUDGE_FAILED, a.completion, b.completion))
        elif found.tie and not learns_from_ties:
            dropped.append(Dropped(found.tie, a.completion, b.completion))
        else:
            kept.append(found)
    preferences = tuple(
        Preference.over(
            prompt=prompt,
            chosen=one.chosen.completion,
            rejected=one.rejected.completion,
            chosen_score=one.chosen.score,
            rejected_score=one.rejected.score,
            judge=comparison.judge,
            weight=1 / len(kept),
            win_prob=one.win_prob,
        )
        for one in kept
    )
    return preferences, tuple(dropped)


def _players(
    completions: Sequence[Completion], comparison: Comparison, config: Matching
) -> tuple[list[Player], list[Dropped]]:
    players, dropped = [], []
    cut = {
        i for i, c in enumerate(completions) if c.truncated and config.truncated is Truncated.drop
    }
    playing = [i for i in range(len(completions)) if i not in cut]
    scores = side_scores(comparison, config, playing)
    for i, (completion, score) in enumerate(zip(completions, scores, strict=True)):
        if i in cut:
            dropped.append(Dropped(DropReason.TRUNCATED, rejected=completion))
        elif score is None:
            dropped.append(Dropped(DropReason.JUDGE_FAILED, rejected=completion))
        else:
            players.append(Player(i, completion, score))
    return players, dropped


def _would_be_pairs(players: list[Player], rule: SelfPlayRule) -> list[tuple[Player, Player]]:
    match rule:
        case SelfPlayRule.best_worst:
            # The sort is stable: equal scores stay in the order of their samples.
            ranked = sorted(players, key=lambda player: -player.score)
            return [(ranked[0], ranked[-1])]
        case SelfPlayRule.ranked:
            ranked = sorted(players, key=lambda player: -player.score)
            return [(ranked[i], ranked[-1 - i]) for i in range(len(ranked) // 2)]
        case SelfPlayRule.all_pairs:
            teams = {player.completion.mixture for player in players}
            return [
                (a, b)
                for a, b in combinations(players, 2)
                if len(teams) == 1 or a.completion.mixture != b.completion.mixture
            ]
        case SelfPlayRule.iid:
            # By place among all, so that one who drops out does not shift the others' opponents.
            at = {player.index: player for player in players}
            return [(at[i], at[i + 1]) for i in at if i % 2 == 0 and i + 1 in at]


def _label(
    a: Player, b: Player, win_prob: float | None, config: Matching, rng: random.Random
) -> Labelled | None:
    """None where the judge failed."""
    if a.completion.text == b.completion.text or a.completion.token_ids == b.completion.token_ids:
        # Whatever the judge says of a text against itself, and without the noise of a coin.
        return Labelled(a, b, 0.5, DropReason.IDENTICAL)
    if win_prob is None:
        return None
    if config.label is Label.sampled:
        return Labelled(a, b, 1.0) if rng.random() < win_prob else Labelled(b, a, 1.0)
    by_score = config.rule is SelfPlayRule.best_worst
    lead = a.score - b.score if by_score else win_prob - 0.5
    if config.label is Label.hard:
        win_prob = 0.5 + 0.5 * ((lead > 0) - (lead < 0))
    needs_winner = by_score or config.rule is SelfPlayRule.ranked or config.label is Label.hard
    if lead == 0 and needs_winner:
        return Labelled(a, b, win_prob, DropReason.TIE)
    return Labelled(a, b, win_prob) if lead >= 0 else Labelled(b, a, 1 - win_prob)
