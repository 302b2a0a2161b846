"""How likely either side is to the policy."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric


class LogProbs(Diagnostic):
    name = "log_probs"
    title = "Log-probability of the sides"
    axis = "nats per token"
    place = 6
    metrics = (
        PairMetric(
            "chosen_logprob",
            Metric("mean log-probability of the chosen side", "nats/token"),
            "chosen",
            lambda pairs: pairs.policy.chosen_B / pairs.policy.chosen_tokens_B,
        ),
        PairMetric(
            "rejected_logprob",
            Metric("mean log-probability of the rejected side", "nats/token"),
            "rejected",
            lambda pairs: pairs.policy.rejected_B / pairs.policy.rejected_tokens_B,
        ),
    )
