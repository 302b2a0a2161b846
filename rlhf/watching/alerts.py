"""What people should be told at once of a run that goes on."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rlhf.config.run import TrackingConfig
from rlhf.watching.collapse import Collapse, Sign
from rlhf.watching.metrics import LOWER_IS_BETTER, headline

WORSE = 0.1
"""How far an evaluation may be below the first, in itself or relative to it."""


class Alert(NamedTuple):
    """Something that is wrong with a run."""

    title: str
    text: str
    is_error: bool = False
    """What was computed is of no use, rather than doubtful."""
    details: str = ""
    """Lines for who looks for the cause, such as a worker's traceback."""


class Bound(NamedTuple):
    """A metric that is well up to a limit."""

    metric: str
    limit: float
    title: str
    advice: str


class Alerts:
    """Finds what is newly wrong: each cause once, and again only after it was well in between."""

    def __init__(self, config: TrackingConfig, max_logprob_gap: float) -> None:
        """`max_logprob_gap`: the gap, in nats per token, at which the run stops."""
        self._bounds = (
            Bound(
                "policy/skipped_steps",
                0,
                "Optimizer steps are skipped",
                "their gradients were not finite; lower policy.learning_rate, or look at the data",
            ),
            Bound(
                "judge/invalid_rate",
                config.alert_invalid_rate,
                "The judge fails",
                "what it fails on is not trained on; see judge.max_failure_rate",
            ),
            Bound(
                "rollout/truncated_rate",
                config.alert_truncated_rate,
                "Completions are cut off",
                "raise rollout.max_completion_tokens, or see whether the policy rambles",
            ),
            Bound(
                "weights/logprob_gap",
                config.alert_gap_share * max_logprob_gap,
                "Rollout workers drift from the policy",
                f"the run stops at {max_logprob_gap:g} (weights.max_logprob_gap)",
            ),
            Bound(
                "weights/merge_lost",
                0.5,
                "Rollout workers hardly get what is learnt",
                "the adapter's changes are too small for bfloat16 weights; publish the adapter by "
                "itself (weights.lora=adapter), set model.dtype=float32, or train all weights "
                "(policy.lora_rank=0)",
            ),
        )
        self._standing: dict[str, str] = {}
        """What is wrong, in words, by its cause."""
        self._collapse = Collapse()
        self.ruin: dict[str, Sign] = {}
        """Signs that the run has come to nothing, by their titles, while they last."""
        self._first: dict[str, float] = {}
        """The first evaluation, by its name, as a number that is to rise."""

    @property
    def standing(self) -> list[str]:
        """What is wrong still, in words."""
        return list(dict.fromkeys(self._standing.values()))

    def new(self, metrics: Mapping[str, float]) -> list[Alert]:
        """What these metrics show for the first time; one that is absent is as it was."""
        alerts = []
        not_finite = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        finite = metrics.keys() - set(not_finite)
        text = "not finite, so null: "
        if fresh := [n for n in not_finite if self._is_news(f"{n} not finite", True, text + n)]:
            alerts.append(Alert("Numbers are not finite", text + ", ".join(fresh), is_error=True))
        for name in finite:
            self._is_news(f"{name} not finite", False)
        for metric, limit, title, advice in self._bounds:
            if metric in finite:
                text = f"{metric} is {metrics[metric]:.3g}, above {limit:g}: {advice}"
                if self._is_news(metric, metrics[metric] > limit, text):
                    alerts.append(Alert(title, text))
        return [*alerts, *self._ruined(metrics), *self._worse(metrics)]

    def _ruined(self, metrics: Mapping[str, float]) -> Iterator[Alert]:
        for sign in self._collapse.signs(metrics):
            self.ruin.pop(sign.title, None)
            if sign.is_lasting:
                self.ruin[sign.title] = sign
            if self._is_news(sign.title, sign.is_lasting, sign.text):
                yield Alert(sign.title, sign.text)

    def _worse(self, metrics: Mapping[str, float]) -> Iterator[Alert]:
        evaluation = {
            name.removeprefix("eval/"): value
            for name, value in metrics.items()
            if name.startswith("eval/") and math.isfinite(value)
        }
        if (name := headline(evaluation)) is None:
            return
        value = evaluation[name] * (-1 if name in LOWER_IS_BETTER else 1)
        first = self._first.setdefault(name, value)
        is_worse = value < first - max(WORSE, WORSE * abs(first))
        text = (
            f"eval/{name} is {abs(value):.3g}, after {abs(first):.3g} at first: the policy "
            "unlearns; lower policy.learning_rate, and go on from an earlier checkpoint"
        )
        if self._is_news("worse", is_worse, text):
            yield Alert("The policy is worse than it was at first", text)

    def _is_news(self, cause: str, is_wrong: bool, text: str = "") -> bool:
        was_wrong = cause in self._standing
        if is_wrong:
            self._standing[cause] = text
        else:
            self._standing.pop(cause, None)
        return is_wrong and not was_wrong
