"""IPO, online IPO and IPO-MD: the margin is drawn to a target."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    margin,
    per_token,
)
from rlhf.ranges import number


class Reduce(Enum):
    sum = "sum"
    mean = "mean"


@dataclass
class IPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "ipo"
    game: ClassVar[str | None] = "online IPO"

    tau: float = number(0.1, above=0)
    """The pair is drawn to (P - 1/2)/tau nats, a plain label's pair to 1/(2·tau)."""
    reduce: Reduce = Reduce.mean
    """Log-ratios per token, or summed over the completion, as online IPO and IPO-MD need it."""
    anchor: Anchor = Anchor.initial

    @property
    def largest_target(self) -> float | None:
        return 1 / (2 * self.tau)

    def loss(self, pairs: Pairs) -> Tensor:
        """The squared distance of the margin, summed or per token, from (P - 1/2)/τ.

        A plain label's P is 1, and the target 1/(2τ). Summed, on two samples of the policy itself,
        it is online IPO, whose gradient is that of self-play in the regularised game; on two
        samples of the mixture it is IPO-MD.
        """
        ratios = pairs.log_ratios(self.anchor.value)
        if self.reduce is Reduce.mean:
            ratios = per_token(ratios, pairs.policy)
        # Azar et al. 2023, arXiv 2310.12036, Eq. 17, where log-ratios are sums and labels plain;
        # with P, and on fresh samples: Calandriello et al. 2024, arXiv 2403.08635
        return (margin(ratios) - (pairs.judged.win_prob_B - 0.5) / self.tau).square()
