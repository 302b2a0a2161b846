"""How many pairs are ranked as the judge did, by what the policy has moved from its anchor."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric, TrainedPairs
from rlhf.objectives.late import Tensor


def is_positive(pairs: TrainedPairs) -> Tensor:
    """1 where the implicit margin is above 0, else 0."""
    return (pairs.margin_B > 0).to(pairs.loss_B.dtype)


class Accuracy(Diagnostic):
    name = "accuracy"
    title = "Accuracy on the pairs"
    axis = "pairs ranked as the judge did"
    place = 3
    metrics = (
        PairMetric(
            "accuracy",
            Metric(
                "pairs whose implicit margin is positive",
                "share",
                "from 0.5 up to 0.6–0.8; near 1 the pairs teach nothing new. Pairs of equal "
                "texts, which five methods of self-play train on, are never positive",
            ),
            "accuracy",
            is_positive,
        ),
    )
