"""What a loss is given of a batch of preferences, and the quantities that losses share.

Tensor names end in their dimensions: B pairs, S the two sides, chosen before rejected.
Log-probabilities are nats, summed over a completion's tokens unless said to be per token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rlhf.objectives.late import Tensor, torch
from rlhf.objectives.tokens import TokenLogprobs


@dataclass(frozen=True, slots=True)
class SideLogprobs:
    """What an anchor gives to the two sides of each pair; or what the policy gives beyond it."""

    chosen_B: Tensor
    rejected_B: Tensor

    def __post_init__(self) -> None:
        _check("log-probability", self.chosen_B, self.rejected_B)

    @property
    def both_SB(self) -> Tensor:
        return torch.stack((self.chosen_B, self.rejected_B))

    def reversed(self) -> "SideLogprobs":
        return SideLogprobs(self.rejected_B, self.chosen_B)


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """What the policy in training gives to the two sides of each pair, and their lengths."""

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_tokens_B: Tensor
    """Completion tokens, the end token included; at least 1."""
    rejected_tokens_B: Tensor

    def __post_init__(self) -> None:
        _check("log-probability", self.chosen_B, self.rejected_B)
        shapes = {self.chosen_B.shape, self.chosen_tokens_B.shape, self.rejected_tokens_B.shape}
        if len(shapes) > 1:
            raise ValueError(f"one token count per pair and side, not shapes {shapes}")

    @property
    def both_SB(self) -> Tensor:
        return torch.stack((self.chosen_B, self.rejected_B))

    def reversed(self) -> "PairLogprobs":
        return PairLogprobs(
            self.rejected_B, self.chosen_B, self.rejected_tokens_B, self.chosen_tokens_B
        )


@dataclass(frozen=True, slots=True)
class Peers:
    """The other completions of a step, for losses that do not look at a pair by itself."""

    list_B: Tensor
    """Which prompt a pair belongs to; all pairs of a prompt are in one batch. int64."""
    side_SB: Tensor
    """Which completion either side is, from 0; the same in all pairs that it is in. int64."""
    distance: float = 0.0
    """Nats per completion between the policy that drew the step's completions and the anchor; at
    least 0."""
    noise: float = 0.0
    """Nats by which rounding may move a token's log-probability, and a sum the root of its length
    times that."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of each pair besides log-probabilities: its label, and who drew its sides."""

    win_prob_B: Tensor
    """Probability that the chosen side is preferred: 1 for a plain label."""
    chosen_score_B: Tensor
    """The algorithm's score of the side, higher is better."""
    rejected_score_B: Tensor
    chosen_mixture_B: Tensor
    """0 where the policy itself drew the side, 1 where the initial policy did."""
    rejected_mixture_B: Tensor
    peers: Peers | None = None

    def __post_init__(self) -> None:
        _check("score", self.win_prob_B, self.chosen_score_B, self.rejected_score_B)
        _check("mixture", self.win_prob_B, self.chosen_mixture_B, self.rejected_mixture_B)

    @property
    def wins_SB(self) -> Tensor:
        """The probability that either side is preferred to the other."""
        return torch.stack((self.win_prob_B, 1 - self.win_prob_B))

    @property
    def scores_SB(self) -> Tensor:
        return torch.stack((self.chosen_score_B, self.rejected_score_B))

    @property
    def mixtures_SB(self) -> Tensor:
        return torch.stack((self.chosen_mixture_B, self.rejected_mixture_B))

    def reversed(self) -> "Judged":
        """The other side wins, with the probability with which the chosen one did."""
        return Judged(
            self.win_prob_B,
            self.rejected_score_B,
            self.chosen_score_B,
            self.rejected_mixture_B,
            self.chosen_mixture_B,
            self.peers and replace(self.peers, side_SB=self.peers.side_SB.flip(0)),
        )

    @property
    def others(self) -> Peers:
        """Raises ValueError where there are none."""
        if self.peers is None:
            raise ValueError("this loss looks beyond its pairs, and is not told of any peers")
        return self.peers


Anchors = Mapping[str, SideLogprobs]
"""By anchor name (`initial`, `previous`), in the policy's order of pairs."""


def log_ratios(policy: PairLogprobs, anchor: SideLogprobs) -> SideLogprobs:
    """The policy's log-probability less the anchor's, for either side, summed over tokens."""
    if anchor.chosen_B.shape != policy.chosen_B.shape:
        raise ValueError(
            f"an anchor of {len(anchor.chosen_B)} pairs for {len(policy.chosen_B)} pairs"
        )
    return SideLogprobs(policy.chosen_B - anchor.chosen_B, policy.rejected_B - anchor.rejected_B)


@dataclass(frozen=True, slots=True)
class Pairs:
    """What a loss is given of some pairs. Parts that objectives declare are there where they do:
    anchors by `anchors`, peers that are whole by `needs_whole_lists`, tokens by `needs_tokens`."""

    policy: PairLogprobs
    anchors: Anchors
    judged: Judged
    tokens: TokenLogprobs | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    """What the objective knows of earlier steps: `ObjectiveConfig.after_step`."""

    def __post_init__(self) -> None:
        if self.judged.win_prob_B.shape != self.policy.chosen_B.shape:
            raise ValueError(
                f"judgements of {len(self.judged.win_prob_B)} pairs for "
                f"{len(self.policy.chosen_B)} pairs"
            )

    def log_ratios(self, anchor: str) -> SideLogprobs:
        """To one of the anchors, for either side, summed over tokens."""
        return log_ratios(self.policy, self.anchors[anchor])

    @property
    def every_token(self) -> TokenLogprobs:
        """Raises ValueError where they were not asked for."""
        if self.tokens is None:
            raise ValueError("this loss looks at tokens, and is given sums alone")
        return self.tokens

    def reversed(self) -> "Pairs":
        """The same pairs under the opposite labels: what was rejected is chosen."""
        return Pairs(
            self.policy.reversed(),
            {name: anchor.reversed() for name, anchor in self.anchors.items()},
            self.judged.reversed(),
            self.tokens and self.tokens.reversed(),
            self.memory,
        )


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


def mean_over(counts_SB: Tensor, value_SB: Tensor) -> Tensor:
    """Mean over the sides that count, `(B,)`; 0 where neither does."""
    kept_SB = torch.where(counts_SB, value_SB, 0.0)
    return kept_SB.sum(0) / counts_SB.sum(0).clamp(min=1)


def log_sigmoid(logit_B: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(logit_B)


def dpo_loss(logit_B: Tensor, right_B: Tensor) -> Tensor:
    """DPO's, on average over a label that is right with the given probability."""
    return -right_B * log_sigmoid(logit_B) - (1 - right_B) * log_sigmoid(-logit_B)


def _check(what: str, *values_B: Tensor) -> None:
    """One number of a floating type that losses are exact in, per pair."""
    # (B, 1) against (B,) would quietly become (B, B).
    if values_B[0].ndim != 1 or len({value_B.shape for value_B in values_B}) > 1:
        shapes = " and ".join(str(tuple(value_B.shape)) for value_B in values_B)
        raise ValueError(f"one {what} per pair and side, not shapes {shapes}")
    if not {value_B.dtype for value_B in values_B} <= {torch.float32, torch.float64}:
        dtypes = " and ".join(str(value_B.dtype) for value_B in values_B)
        raise ValueError(f"{what} in float32 or float64, not {dtypes}")
