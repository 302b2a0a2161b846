"""Whether the likelier side is the chosen one, and whether it could be: a margin says neither."""

from rlhf.diagnostics.base import Diagnostic, Metric, PairMetric, TrainedPairs
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import margin


def is_ranked(pairs: TrainedPairs) -> Tensor:
    """1 where the policy gives the chosen side at least as much as the rejected, else 0, `(B,)`.

    Of whole answers, and without an anchor.
    """
    # Chen et al. 2024, arXiv 2405.19534: ranking accuracy
    return (margin(pairs.given.policy) >= 0).to(pairs.loss_B.dtype)


def is_ranked_ideally(pairs: TrainedPairs) -> Tensor:
    """1 where the policy of least DPO loss would give the chosen side more, else 0, `(B,)`.

    Its margin is the anchor's and ln(q/(1-q))/β, with the probability q with which the loss takes
    the label to be right: a certain label outweighs any anchor.
    """
    objective = pairs.objective
    log_odds_B = objective.right(pairs.given.judged.win_prob_B).logit()
    anchor_B = margin(pairs.given.anchors[objective.anchor_names[0]])
    # Chen et al. 2024, arXiv 2405.19534: idealized ranking accuracy
    ideal_B = anchor_B + log_odds_B / objective.beta  # type: ignore[attr-defined]
    return (ideal_B > 0).to(pairs.loss_B.dtype)


class Ranking(Diagnostic):
    name = "ranking"
    title = "Pairs that the policy itself ranks as the judge did"
    axis = "pairs whose chosen side is likelier"
    metrics = (
        PairMetric(
            "ranking",
            Metric(
                "pairs whose chosen side is at least as likely as the rejected one",
                "share",
                "rises far less than `policy/accuracy`: what the anchor ranks wrongly mostly stays "
                "so; longer answers are less likely",
            ),
            "policy",
            is_ranked,
        ),
        PairMetric(
            "ranking_ideal",
            Metric(
                "the same of the policy that DPO's loss would be least for",
                "share",
                "how far `policy/ranking` could rise: 1 where all labels are taken for certain",
            ),
            "at the least loss",
            is_ranked_ideally,
            lambda objective: objective.has_dpo_weight,
        ),
    )
