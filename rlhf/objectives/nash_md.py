"""Nash-MD: the policy gradient of the regularised game."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, mean_over
from rlhf.ranges import number


@dataclass
class NashMDConfig(ObjectiveConfig):
    name: ClassVar[str] = "nash_md"
    learns_from_ties: ClassVar[bool] = True
    needs_self_play: ClassVar[bool] = True
    game: ClassVar[str | None] = "Nash-MD"

    tau: float = number(0.1, at_least=0)
    """Strength of the KL to the initial policy."""
    anchor: Anchor = Anchor.initial

    def problems_with(self, algorithm: Any) -> Iterator[str]:
        yield from super().problems_with(algorithm)
        if algorithm.label.value == "hard":
            yield "algorithm.label=hard: objective=nash_md needs soft or sampled labels"
        if not algorithm.num_completions:
            yield "algorithm.num_completions=0: objective=nash_md trains on the policy's own"
        if algorithm.temperature != 1 or algorithm.top_p != 1:
            yield (
                f"algorithm.temperature={algorithm.temperature:g}, top_p={algorithm.top_p:g}: "
                "objective=nash_md follows the gradient of what is sampled, so both must be 1"
            )

    def loss(self, pairs: Pairs) -> Tensor:
        """A side of the policy's own against whatever it met.

        Its value means little; its gradient is that of -P(side wins) + τ·KL, with 1/2 as baseline.
        Mean over the policy's own sides; 0 where it has none.
        """
        ratio_SB = pairs.log_ratios(self.anchor.value).both_SB
        # The whole completion's log-ratio, not each token's own: a token answers also for the KL of
        # the tokens that follow it.
        weight_SB = (pairs.judged.wins_SB - 0.5 - self.tau * ratio_SB).detach()
        # Munos et al. 2023, arXiv 2312.00886, Nash-MD-PG
        return mean_over(pairs.judged.mixtures_SB == 0, -weight_SB * pairs.policy.both_SB)
