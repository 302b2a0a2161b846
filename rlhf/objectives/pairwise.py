"""Losses that compare the two sides of a preference: log-probabilities to one number per pair.

Tensor names end in their dimensions: B pairs. Log-probabilities are nats, summed over a
completion's tokens unless said to be per token. A loss is to be minimised, and comes unreduced,
so that its caller can weight the pairs. All but IPO and DPO take the chosen side to be preferred
for certain, whatever its win probability.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlhf.config.objectives import (
    DPOConfig,
    IPOConfig,
    LNDPOConfig,
    RDPOConfig,
    Reduce,
    RSOConfig,
    SimPOConfig,
    SLiCConfig,
)
from rlhf.objectives.pairs import Anchors, Judged, PairLogprobs, log_ratios, margin, per_token


def dpo(config: DPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """DPO; label smoothing makes it cDPO, least at a margin of ln((1-ε)/ε)/β; an NLL makes it RPO.

    A pair whose win probability is not 1 is doubtful by itself, as those of a search tree are. The
    NLL is the chosen side's, per token.
    """
    logit_B = config.beta * margin(log_ratios(policy, anchors[config.anchor.value]))
    smoothing = config.label_smoothing
    right_B = judged.win_prob_B * (1 - smoothing) + (1 - judged.win_prob_B) * smoothing
    # Rafailov et al. 2023, arXiv 2305.18290, Eq. 7; Mitchell 2023, ericmitchell.ai/cdpo.pdf, Eq. 3
    loss_B = -right_B * logsigmoid(logit_B) - (1 - right_B) * logsigmoid(-logit_B)
    # Pang et al. 2024, arXiv 2404.19733, Eq. 1
    return loss_B + config.nll_coef * chosen_nll_per_token(policy)


def rdpo(config: RDPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """DPO's loss, unbiased under labels that are flipped at a known rate; without lower bound."""
    logit_B = config.beta * margin(log_ratios(policy, anchors[config.anchor.value]))
    wrong = config.label_noise
    # Chowdhury et al. 2024, arXiv 2403.00409, Section 3.1
    return (wrong * logsigmoid(-logit_B) - (1 - wrong) * logsigmoid(logit_B)) / (1 - 2 * wrong)


def ipo(config: IPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """IPO: the squared distance of the margin, summed or per token, from (P - 1/2)/τ.

    A plain label's P is 1, and the target 1/(2τ). Summed, on two samples of the policy itself, it
    is online IPO, whose gradient is that of self-play in the regularised game; on two samples of
    the mixture it is IPO-MD.
    """
    ratios = log_ratios(policy, anchors[config.anchor.value])
    if config.reduce is Reduce.mean:
        ratios = per_token(ratios, policy)
    # Azar et al. 2023, arXiv 2310.12036, Eq. 17, where log-ratios are sums and labels plain;
    # with P, and on fresh samples: Calandriello et al. 2024, arXiv 2403.08635
    return (margin(ratios) - (judged.win_prob_B - 0.5) / config.tau).square()


def rso(config: RSOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """RSO's normalised hinge, without gradient where the margin exceeds 1/γ."""
    margin_B = margin(log_ratios(policy, anchors[config.anchor.value]))
    # Liu et al. 2023, arXiv 2309.06657, "hinge-norm"
    return relu(1 - config.gamma * margin_B)


def slic(config: SLiCConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """SLiC-HF: a hinge on log-probabilities, without anchor, plus the chosen side's NLL per token.

    The paper takes the NLL of a fixed target, summed over tokens. A fresh preference has no
    target but its chosen side, and per token `nll_coef` means what it means in DPO.
    """
    hinge_B = relu(config.delta - margin(policy))
    # Zhao et al. 2023, arXiv 2305.10425, Eq. 1
    return hinge_B + config.nll_coef * chosen_nll_per_token(policy)


def simpo(config: SimPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """SimPO: log-probabilities per token, without anchor, apart by more than a target margin."""
    margin_B = margin(per_token(policy, policy))
    # Meng et al. 2024, arXiv 2405.14734, Eq. 6, with the paper's γ = β·margin
    return -logsigmoid(config.beta * (margin_B - config.margin))


def ln_dpo(config: LNDPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """DPO on log-ratios per token: on sides of n tokens each, DPO with β/n."""
    ratios = log_ratios(policy, anchors[config.anchor.value])
    # Lambert et al. 2024 (Tülu 3), arXiv 2411.15124, Section 5, length-normalised DPO
    return -logsigmoid(config.beta * margin(per_token(ratios, policy)))


def chosen_nll_per_token(policy: PairLogprobs) -> Tensor:
    return -policy.chosen_B / policy.chosen_tokens_B
