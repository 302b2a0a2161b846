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
            lambda pairs: pairs.given.policy.chosen_B / pairs.given.policy.chosen_tokens_B,
        ),
        PairMetric(
            "rejected_logprob",
            Metric("mean log-probability of the rejected side", "nats/token"),
            "rejected",
            lambda pairs: pairs.given.policy.rejected_B / pairs.given.policy.rejected_tokens_B,
        ),
    )
