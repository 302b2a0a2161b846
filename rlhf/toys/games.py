"""Known games: who beats whom is given, so how far a policy is from equilibrium can be computed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf.data.rows import is_text, shown
from rlhf.problems import InputError

MAX_ANSWERS = 8
_RESAMPLES = 2000
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class KnownGame:
    """A symmetric game: answers, and the probability that one is preferred to another."""

    answers: tuple[str, ...]
    win_prob: np.ndarray
    """[i][j]: the probability that answer i is preferred to answer j, A x A."""

    def place(self, text: str) -> int:
        """An answer's place; that of anything else is behind the last."""
        text = text.strip()
        return self.answers.index(text) if text in self.answers else len(self.answers)

    @property
    def with_other(self) -> np.ndarray:
        """The matrix with a last row and column for text that is no answer: it always loses."""
        size = len(self.answers)
        whole = np.ones((size + 1, size + 1))
        whole[:size, :size] = self.win_prob
        whole[size] = 0.0
        whole[size, size] = 0.5
        return whole


def read_game(path: str) -> KnownGame:
    """Reads {"answers": [...], "win_prob": [[...], ...]}; raises InputError with all problems.

    A path that is not there from the working directory is looked for from Agon's own folder, so
    that recipes name a game by the same words wherever, and on whatever node, they are used.
    """
    key = f"judge.game={path}"
    file = Path(path) if Path(path).exists() else _ROOT / path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError([f"{key}: cannot be read ({error.strerror})"]) from error
    except (ValueError, RecursionError) as error:
        raise InputError([f"{key}: is not JSON ({error})"]) from error
    wanted = '{"answers": ["rock", ...], "win_prob": [[0.5, ...], ...]}'
    if not isinstance(raw, dict) or {"answers", "win_prob"} - raw.keys():
        raise InputError([f"{key}: must be {wanted}"])
    answers, rows = raw["answers"], raw["win_prob"]
    problems = _answer_problems(answers)
    if not problems:
        problems = _matrix_problems(rows, len(answers))
    if problems:
        raise InputError([f"{key}: {problem}" for problem in problems])
    return KnownGame(tuple(answer.strip() for answer in answers), np.array(rows, dtype=float))


def _answer_problems(answers: object) -> list[str]:
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        return ["answers must be a list of texts that are not empty"]
    if not 2 <= len(answers) <= MAX_ANSWERS:
        return [f"has {len(answers)} answers; allowed are 2 to {MAX_ANSWERS}"]
    if not all(is_text(answer) for answer in answers):
        return ["an answer has half a surrogate pair, which is no character"]
    if len({answer.strip() for answer in answers}) < len(answers):
        return ["two answers are the same"]
    return []


def _matrix_problems(rows: object, size: int) -> list[str]:
    shape = f"win_prob must be {size} rows of {size} numbers, like the answers"
    if not isinstance(rows, list) or len(rows) != size:
        return [shape]
    if any(not isinstance(row, list) or len(row) != size for row in rows):
        return [shape]
    if any(isinstance(v, bool) or not isinstance(v, int | float) for row in rows for v in row):
        return [shape]
    problems = [
        f"win_prob[{i}][{j}]={shown(value)}: must be between 0 and 1"
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if not 0 <= value <= 1
    ]
    if problems:  # whole numbers may be too large to be added
        return problems
    for i in range(size):
        for j in range(i, size):
            if abs(rows[i][j] + rows[j][i] - 1) > 1e-6:
                fix = "0.5" if i == j else f"{1 - rows[i][j]:g}"
                problems.append(
                    f"win_prob[{j}][{i}]={rows[j][i]}: must be {fix}, since win_prob[{i}][{j}]="
                    f"{rows[i][j]}"
                )
    return problems


def exploitability(game: KnownGame, shares: Sequence[float]) -> float:
    """How much more than 1/2 the best answer wins against a policy: 0 at the Nash policy.

    `shares`: of every answer, and last of what is none.
    """
    return float((game.with_other @ np.asarray(shares)).max() - 0.5)


def nash_gap(game: KnownGame, shares: Sequence[float]) -> float:
    """The duality gap: what both players together gain by deviating from (policy, policy).

    max_y P(y beats policy) - min_y P(policy beats y); in a symmetric game twice the
    exploitability.
    """
    against = game.with_other @ np.asarray(shares)
    return float(against.max() - (1 - against).min())


class Interval(NamedTuple):
    """A confidence interval: it holds the truth in at least 95 of 100 samples."""

    low: float
    high: float


def exploitability_interval(game: KnownGame, counts: Sequence[int], seed: int) -> Interval:
    """What the true exploitability may be; `counts`: of sampled answers, the last of what is none.

    The most that an answer wins is the maximum over noisy estimates, which at equilibrium is always
    too high: no resampling around the estimate itself ever reaches 0. So this is a simultaneous
    bound for all answers at once, and a maximum strays no further than the worst of them.
    """
    counts_A, rng = np.asarray(counts), np.random.default_rng(seed)
    num_samples = int(counts_A.sum())
    # Half a count more each, as in Jeffreys' interval: what was not seen may yet be rare.
    shares_A = (counts_A + 0.5) / (counts_A + 0.5).sum()
    strayed_RA = _sampled_shares(rng, shares_A, num_samples) - shares_A
    reach = np.quantile(np.abs(strayed_RA @ game.with_other.T).max(1), 0.95)
    found = exploitability(game, (counts_A / num_samples).tolist())
    return Interval(max(0.0, found - float(reach)), found + float(reach))


def exploitability_bias(
    game: KnownGame, shares: Sequence[float], num_samples: int, seed: int
) -> float:
    """How much too high the exploitability of `num_samples` answers is on average.

    `shares` are the true ones. At equilibrium it is the floor, below which a mean of such estimates
    does not fall; far from it, where one answer is the best by much, it is 0.
    """
    rng = np.random.default_rng(seed)
    drawn_RA = _sampled_shares(rng, np.asarray(shares), num_samples)
    found_R = (drawn_RA @ game.with_other.T).max(1) - 0.5
    return float(found_R.mean()) - exploitability(game, shares)


def _sampled_shares(rng: np.random.Generator, shares_A: np.ndarray, size: int) -> np.ndarray:
    return rng.multinomial(size, shares_A, _RESAMPLES) / size
