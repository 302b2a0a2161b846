"""Where either side went from the anchor."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric


class LogRatios(Diagnostic):
    name = "log_ratios"
    title = "Distance from the anchor"
    axis = "log-ratio to the anchor, nats per answer"
    place = 4
    metrics = (
        PairMetric(
            "chosen_logratio",
            Metric(
                "mean log-ratio of the chosen side to the anchor",
                "nats",
                "rises, or falls less than the rejected one",
            ),
            "chosen",
            lambda pairs: pairs.log_ratios.chosen_B,
        ),
        PairMetric(
            "rejected_logratio",
            Metric("mean log-ratio of the rejected side to the anchor", "nats", "falls"),
            "rejected",
            lambda pairs: pairs.log_ratios.rejected_B,
        ),
    )
