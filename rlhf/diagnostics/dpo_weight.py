"""What DPO scales a pair's gradient by: pairs that are far on the right side count little."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric, TrainedPairs
from rlhf.objectives.late import Tensor


def gradient_factor(pairs: TrainedPairs) -> Tensor:
    """σ(-β·margin), which scales a pair's gradient in plain DPO."""
    beta = pairs.objective.beta  # type: ignore[attr-defined]
    return (-beta * pairs.margin_B).sigmoid()


class DPOWeight(Diagnostic):
    name = "dpo_weight"
    title = "Weight of a pair in DPO"
    axis = "factor of its gradient"
    place = 7
    metrics = (
        PairMetric(
            "dpo_weight",
            Metric("mean factor of a pair's gradient in DPO", "share"),
            "weight",
            gradient_factor,
            lambda objective: objective.has_dpo_weight,
        ),
    )
