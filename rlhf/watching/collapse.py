"""A run that goes on though nothing good can come of it any more: found within a few rounds.

One number by itself may be bad for a while; these are what no run comes back from by itself.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rlhf.watching.metrics import LOWER_IS_BETTER, headline

PATIENCE = 5
"""Rounds in a row before a sign counts."""
ALL_CUT_OFF = 0.99
"""Share of completions."""
NO_ENTROPY = 1e-3
"""Nats per token, below which a policy says one thing only."""
HAD_ACCURACY = 0.05
"""What an evaluation must have been above before its 0 says that something was lost."""
ALWAYS = 0.99
"""Share of a judge's comparisons."""
ACCURACIES = ("accuracy", "rate")
"""How evaluations are called that are shares of what is good."""


class Sign(NamedTuple):
    """Something that has been so for some rounds."""

    title: str
    text: str
    rounds: int
    """In a row, this one included."""
    is_lasting: bool
    """It has been so for long enough to count."""


class _Seen(NamedTuple):
    title: str
    is_so: bool
    text: str
    """With `{rounds}` for how many in a row."""
    patience: int = PATIENCE
    """How many it takes."""


class Collapse:
    """Which signs of ruin there are, from the metrics of rounds and of evaluations."""

    def __init__(self) -> None:
        self._rounds: dict[str, int] = {}
        """By title, how many in a row."""
        self._score: float | None = None
        """That of the round before."""
        self._best: dict[str, float] = {}
        """By evaluation."""
        self._was_cut_off = True
        self._had_entropy = False

    def signs(self, metrics: Mapping[str, float]) -> list[Sign]:
        """Those that these metrics speak of, whether or not they have lasted long enough."""
        seen = list(self._of_evaluation(metrics))
        if "preference/count" in metrics:
            seen += self._of_round(metrics)
        signs = []
        for title, is_so, text, patience in seen:
            rounds = self._rounds[title] = self._rounds.get(title, 0) + 1 if is_so else 0
            text = text.replace("{rounds}", str(rounds))
            signs.append(Sign(title, text, rounds, rounds >= patience))
        return signs

    def _of_round(self, metrics: Mapping[str, float]) -> Iterator[_Seen]:
        count = metrics["preference/count"]
        dropped = [v for name, v in metrics.items() if name.startswith("preference/dropped_")]
        yield _Seen(
            "Nothing is left to learn from",
            not count,
            "no preference in {rounds} rounds: a prompt's completions are all judged alike; the "
            "policy has collapsed (rollout/entropy, rollout/unique_rate), or the prompts are too "
            "easy or too hard for it"
            if any(dropped) or not dropped
            else "no preference in {rounds} rounds, and none that was dropped: nothing is judged, "
            "and what is stored does not grow; see whether there are prompts (data, data.feed)",
        )
        yield from self._of_policy(metrics)
        yield from self._of_judge(metrics)

    def _of_policy(self, metrics: Mapping[str, float]) -> Iterator[_Seen]:
        cut_off = metrics.get("rollout/truncated_rate")
        if cut_off is not None:
            is_so = cut_off >= ALL_CUT_OFF
            self._was_cut_off = self._was_cut_off and is_so  # from the start: it is meant so
            yield _Seen(
                "The policy does not end its answers",
                is_so and not self._was_cut_off,
                "all completions are cut off since {rounds} rounds, and were not at first: the "
                "policy has collapsed; lower policy.learning_rate, or raise the objective's beta",
            )
        entropy = metrics.get("rollout/entropy")
        if entropy is not None and math.isfinite(entropy):
            self._had_entropy = self._had_entropy or entropy >= NO_ENTROPY
            yield _Seen(
                "The policy says one thing only",
                entropy < NO_ENTROPY and self._had_entropy,
                f"rollout/entropy is below {NO_ENTROPY:g} since {{rounds}} rounds: a prompt's "
                "completions are all the same; lower policy.learning_rate, or raise the "
                "objective's beta",
            )

    def _of_judge(self, metrics: Mapping[str, float]) -> Iterator[_Seen]:
        title, score = "The judge says one thing only", metrics.get("judge/score_mean")
        disagreement = metrics.get("judge/order_disagreement")
        if score is not None:
            # Scores that are standardised in each group have the same mean, and differ.
            is_so = score == self._score and not metrics.get("preference/margin_mean")
            self._score = score
            text = f"every round's mean score is {score:.6g}"
        elif (ties := metrics.get("judge/tie_rate")) is not None and ties >= ALWAYS:
            is_so, text = True, "all that it compares are ties"
        elif disagreement is not None:
            is_so, text = disagreement >= ALWAYS, "it prefers whichever text it reads first"
        elif ties is not None:
            is_so, text = False, "it tells some apart"
        else:
            return
        yield _Seen(
            title,
            is_so,
            f"the judge says one thing only since {{rounds}} rounds: {text}; read some of its "
            "judgements (python -m rlhf.report); or the prompts are all solved, or all too hard",
        )

    def _of_evaluation(self, metrics: Mapping[str, float]) -> Iterator[_Seen]:
        """One is enough: there are many answers in it."""
        found = {
            name.removeprefix("eval/"): value
            for name, value in metrics.items()
            if name.startswith("eval/") and math.isfinite(value)
        }
        name = headline(found)
        if name is None or name in LOWER_IS_BETTER or not name.endswith(ACCURACIES):
            return
        best = self._best[name] = max(self._best.get(name, 0.0), found[name])
        yield _Seen(
            "The policy gets nothing right any more",
            found[name] == 0 and best > HAD_ACCURACY,
            f"eval/{name} is 0, after {best:.3g} at best: the policy has collapsed; lower "
            "policy.learning_rate, and go on from an earlier checkpoint",
            patience=1,
        )
