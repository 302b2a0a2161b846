"""How far the policy is from the anchor."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric, TrainedPairs
from rlhf.objectives.late import Tensor


def both_sides(pairs: TrainedPairs) -> Tensor:
    """Both sides' mean log-ratio: estimates the KL where both are samples of the policy."""
    ratios = pairs.log_ratios
    return (ratios.chosen_B + ratios.rejected_B) / 2


class KL(Diagnostic):
    name = "kl"
    title = "KL"
    axis = "nats per answer"
    place = 5
    metrics = (
        PairMetric(
            "kl",
            Metric(
                "mean log-ratio of both sides to the anchor",
                "nats",
                "grows slowly; tens of nats are far away from the anchor",
            ),
            "both sides' mean log-ratio",
            both_sides,
        ),
    )
