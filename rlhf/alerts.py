"""What people should be told at once of a run that goes on."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from rlhf.config.run import TrackingConfig


class Alert(NamedTuple):
    """Something that is wrong with a run."""

    title: str
    text: str
    is_error: bool = False
    """What was computed is of no use, rather than doubtful."""


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
                "the adapter's changes are too small for bfloat16 weights; set "
                "model.dtype=float32, raise policy.learning_rate, or train all weights "
                "(policy.lora_rank=0)",
            ),
        )
        self._standing: set[str] = set()

    def new(self, metrics: Mapping[str, float]) -> list[Alert]:
        """What these metrics show for the first time; one that is absent is as it was."""
        alerts = []
        not_finite = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        finite = metrics.keys() - set(not_finite)
        if fresh := [name for name in not_finite if self._is_news(f"{name} not finite", True)]:
            text = f"not finite, so null: {', '.join(fresh)}"
            alerts.append(Alert("Numbers are not finite", text, is_error=True))
        for name in finite:
            self._is_news(f"{name} not finite", False)
        for metric, limit, title, advice in self._bounds:
            if metric in finite and self._is_news(metric, metrics[metric] > limit):
                text = f"{metric} is {metrics[metric]:.3g}, above {limit:g}: {advice}"
                alerts.append(Alert(title, text))
        return alerts

    def _is_news(self, cause: str, is_wrong: bool) -> bool:
        was_wrong = cause in self._standing
        (self._standing.add if is_wrong else self._standing.discard)(cause)
        return is_wrong and not was_wrong
