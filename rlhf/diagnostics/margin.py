"""How far the policy is on the chosen side."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric


class Margin(Diagnostic):
    name = "margin"
    title = "Margin"
    axis = "chosen over rejected, nats"
    place = 2
    metrics = (
        PairMetric(
            "margin",
            Metric(
                "mean implicit reward of the chosen side minus the rejected",
                "nats",
                "rises from 0",
            ),
            "implicit margin",
            lambda pairs: pairs.margin_B,
        ),
    )
