"""How likely an objective that doubts labels takes them to be right."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric, TrainedPairs
from rlhf.objectives.late import Tensor
from rlhf.objectives.lcpo import RELIABILITY


def confidence(pairs: TrainedPairs) -> Tensor:
    return pairs.objective.noticed(pairs.given)[RELIABILITY]


class Confidence(Diagnostic):
    name = "confidence"
    title = "Labels that are taken to be right"
    axis = "probability"
    metrics = (
        PairMetric(
            "label_confidence",
            Metric(
                "how likely a pair's label is taken to be right by an objective that doubts labels",
                "share",
                "settles at the share that is right; near 1/2 labels say nothing to the policy",
            ),
            "confidence",
            confidence,
            lambda objective: RELIABILITY in objective.first_memory(),
        ),
    )
