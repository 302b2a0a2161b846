"""INPO: mirror descent in the regularised game, on labelled pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, margin
from rlhf.ranges import number


@dataclass
class INPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "inpo"

    step_size: float = number(400 / 3, above=0)
    """Nats per unit of win probability, the paper's 1/η: the pair is drawn to
    `step_size`·(P - 1/2)."""
    tau: float = number(0.0025, at_least=0)
    """tau·step_size, the paper's τ/η, is the weight of the initial policy; below 1."""
    initial: Anchor = Anchor.initial
    previous: Anchor = Anchor.previous

    @property
    def largest_target(self) -> float | None:
        return self.step_size / 2

    def problems(self) -> Iterator[str]:
        if self.tau * self.step_size >= 1:
            yield (
                f"objective.tau={self.tau:g}: tau·step_size = {self.tau * self.step_size:g} is the "
                "weight of the initial policy; it must be below 1, so tau below "
                f"{1 / self.step_size:g}"
            )

    def loss(self, pairs: Pairs) -> Tensor:
        """The margin over a blend of two anchors is drawn to `step_size`·(P - 1/2).

        The blend has tau·`step_size` of the initial policy and the rest of the previous one. A
        margin beyond the target is pulled back.
        """
        initial_B = margin(pairs.log_ratios(self.initial.value))
        previous_B = margin(pairs.log_ratios(self.previous.value))
        # Weights that sum to 1 can be put on the log-ratios: the policy's own gap comes out once.
        share = self.tau * self.step_size
        margin_B = share * initial_B + (1 - share) * previous_B
        # Zhang et al. 2024, arXiv 2407.00617, Algorithm 1, whose 1/η is the step size; P for its
        # label
        return (margin_B - self.step_size * (pairs.judged.win_prob_B - 0.5)).square()
