"""DPO, written as your own loss."""

from torch.nn.functional import logsigmoid

BETA = 0.1


def loss(pairs):
    """`pairs`: rlhf.objectives.pairs.Pairs, B pairs; returns a loss for each."""
    ratios = pairs.log_ratios("initial")
    return -logsigmoid(BETA * (ratios.chosen_B - ratios.rejected_B))
