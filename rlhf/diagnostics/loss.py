"""The loss that is minimised."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric


class Loss(Diagnostic):
    name = "loss"
    title = "Loss"
    axis = "mean over pairs"
    place = 1
    metrics = (
        PairMetric(
            "loss",
            Metric(
                "mean loss over pairs",
                good="begins at 0.6931 for DPO, and falls a little: fresh pairs are always near "
                "the border",
            ),
            "loss",
            lambda pairs: pairs.loss_B,
        ),
    )
