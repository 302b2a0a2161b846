"""Losses that compare the two sides of a preference: log-probabilities to one number per pair.

Tensor names end in their dimensions: B pairs. Log-probabilities are nats, summed over a
completion's tokens unless said to be per token. A loss is to be minimised, and comes unreduced,
so that its caller can weight the pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlhf.config import (
    DPOConfig,
    IPOConfig,
    LNDPOConfig,
    RDPOConfig,
    Reduce,
    RSOConfig,
    SimPOConfig,
    SLiCConfig,
)


@dataclass(frozen=True, slots=True)
class SideLogprobs:
    """What an anchor gives to the two sides of each pair; or what the policy gives beyond it."""

    chosen_B: Tensor
    rejected_B: Tensor

    def __post_init__(self) -> None:
        _check(self.chosen_B, self.rejected_B)


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """What the policy in training gives to the two sides of each pair, and their lengths."""

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_tokens_B: Tensor
    """Completion tokens, the end token included; at least 1."""
    rejected_tokens_B: Tensor

    def __post_init__(self) -> None:
        _check(self.chosen_B, self.rejected_B)
        shapes = {self.chosen_B.shape, self.chosen_tokens_B.shape, self.rejected_tokens_B.shape}
        if len(shapes) > 1:
            raise ValueError(f"one token count per pair and side, not shapes {shapes}")


Anchors = Mapping[str, SideLogprobs]
"""By anchor name (`initial`, `previous`), in the policy's order of pairs."""


def dpo(config: DPOConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """DPO; label smoothing makes it cDPO, least at a margin of ln((1-ε)/ε)/β; an NLL makes it RPO.

    The NLL is the chosen side's, per token.
    """
    logit_B = config.beta * margin(log_ratios(policy, anchors[config.anchor.value]))
    wrong = config.label_smoothing
    # Rafailov et al. 2023, arXiv 2305.18290, Eq. 7; Mitchell 2023, ericmitchell.ai/cdpo.pdf, Eq. 3
    loss_B = -(1 - wrong) * logsigmoid(logit_B) - wrong * logsigmoid(-logit_B)
    # Pang et al. 2024, arXiv 2404.19733, Eq. 1
    return loss_B + config.nll_coef * chosen_nll_per_token(policy)


def rdpo(config: RDPOConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """DPO's loss, unbiased under labels that are flipped at a known rate; without lower bound."""
    logit_B = config.beta * margin(log_ratios(policy, anchors[config.anchor.value]))
    wrong = config.label_noise
    # Chowdhury et al. 2024, arXiv 2403.00409, Section 3.1
    return (wrong * logsigmoid(-logit_B) - (1 - wrong) * logsigmoid(logit_B)) / (1 - 2 * wrong)


def ipo(config: IPOConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """IPO: the squared distance of the margin, summed or per token, from 1/(2τ)."""
    ratios = log_ratios(policy, anchors[config.anchor.value])
    if config.reduce is Reduce.mean:
        ratios = per_token(ratios, policy)
    # Azar et al. 2023, arXiv 2310.12036, Eq. 17, where log-ratios are sums
    return (margin(ratios) - 1 / (2 * config.tau)).square()


def rso(config: RSOConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """RSO's normalised hinge, without gradient where the margin exceeds 1/γ."""
    margin_B = margin(log_ratios(policy, anchors[config.anchor.value]))
    # Liu et al. 2023, arXiv 2309.06657, "hinge-norm"
    return relu(1 - config.gamma * margin_B)


def slic(config: SLiCConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """SLiC-HF: a hinge on log-probabilities, without anchor, plus the chosen side's NLL per token.

    The paper takes the NLL of a fixed target, summed over tokens. A fresh preference has no
    target but its chosen side, and per token `nll_coef` means what it means in DPO.
    """
    hinge_B = relu(config.delta - margin(policy))
    # Zhao et al. 2023, arXiv 2305.10425, Eq. 1
    return hinge_B + config.nll_coef * chosen_nll_per_token(policy)


def simpo(config: SimPOConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """SimPO: log-probabilities per token, without anchor, apart by more than a target margin."""
    margin_B = margin(per_token(policy, policy))
    # Meng et al. 2024, arXiv 2405.14734, Eq. 6, with the paper's γ = β·margin
    return -logsigmoid(config.beta * (margin_B - config.margin))


def ln_dpo(config: LNDPOConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """DPO on log-ratios per token: on sides of n tokens each, DPO with β/n."""
    ratios = log_ratios(policy, anchors[config.anchor.value])
    # Lambert et al. 2024 (Tülu 3), arXiv 2411.15124, Section 5, length-normalised DPO
    return -logsigmoid(config.beta * margin(per_token(ratios, policy)))


def log_ratios(policy: PairLogprobs, anchor: SideLogprobs) -> SideLogprobs:
    """The policy's log-probability less the anchor's, for either side, summed over tokens."""
    if anchor.chosen_B.shape != policy.chosen_B.shape:
        raise ValueError(
            f"an anchor of {len(anchor.chosen_B)} pairs for {len(policy.chosen_B)} pairs"
        )
    return SideLogprobs(policy.chosen_B - anchor.chosen_B, policy.rejected_B - anchor.rejected_B)


def per_token(sides: SideLogprobs | PairLogprobs, lengths: PairLogprobs) -> SideLogprobs:
    """Either side's sum, divided by that side's own number of tokens."""
    return SideLogprobs(
        sides.chosen_B / lengths.chosen_tokens_B, sides.rejected_B / lengths.rejected_tokens_B
    )


def margin(sides: SideLogprobs | PairLogprobs) -> Tensor:
    """Chosen less rejected, `(B,)`: positive where the chosen side is ahead."""
    return sides.chosen_B - sides.rejected_B


def chosen_nll_per_token(policy: PairLogprobs) -> Tensor:
    return -policy.chosen_B / policy.chosen_tokens_B


def _check(chosen_B: Tensor, rejected_B: Tensor) -> None:
    # (B, 1) against (B,) would quietly become (B, B).
    if chosen_B.ndim != 1 or chosen_B.shape != rejected_B.shape:
        shapes = f"{tuple(chosen_B.shape)} and {tuple(rejected_B.shape)}"
        raise ValueError(f"one log-probability per pair and side, not shapes {shapes}")
    if not {chosen_B.dtype, rejected_B.dtype} <= {torch.float32, torch.float64}:
        raise ValueError(
            f"log-probabilities in float32 or float64, not {chosen_B.dtype} and {rejected_B.dtype}"
        )
