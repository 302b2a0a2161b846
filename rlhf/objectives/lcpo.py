"""LCPO, also RE-PO: another objective's loss, by how likely each label is to be right."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, log_sigmoid
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Columns, Preference

RELIABILITY = "reliability"
_MOST = 1 - 1e-6
"""How reliable labels may become: at 1 none could ever be doubted again."""


@dataclass
class LCPOConfig(ObjectiveConfig):
    """Expectation maximisation over whether labels are right; all are one annotator's."""

    name: ClassVar[str] = "lcpo"
    takes_certain_labels: ClassVar[bool] = True

    of: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The objective whose loss it takes: `objective@objective.of=simpo`."""
    reliability: float = number(0.9, above=0, below=1)
    """Share of labels that is right, as it is taken to be at first."""
    step: float = number(0.1, above=0, at_most=1)
    """How far a step's own share moves it."""

    @property
    def anchor_names(self) -> tuple[str, ...]:
        return self.of.anchor_names

    @property
    def largest_target(self) -> float | None:
        return self.of.largest_target

    @property
    def needs_tokens(self) -> bool:  # type: ignore[override]
        return self.of.needs_tokens

    @property
    def needs_whole_steps(self) -> bool:  # type: ignore[override]
        return self.of.needs_whole_steps

    def needs(self) -> Mapping[Fact, str]:
        return self.of.needs()

    def problems(self) -> Iterator[str]:
        if not hasattr(self.of, "name"):
            yield "objective.of: is required; add objective@objective.of=dpo"
            return
        yield from self.of.problems()
        key = f"objective@objective.of={self.of.name}: "
        if self.of.first_memory():
            yield f"{key}remembers steps itself; take one that does not, such as dpo"
        elif self.of.needs_self_play or self.of.needs_whole_lists or self.of.learns_from_ties:
            yield f"{key}is no loss of a pair with one label; take one that is, such as dpo"

    def problems_with(self, algorithm: Any) -> Iterator[str]:
        yield from self.of.problems_with(algorithm)

    def cautions(self, max_staleness: int) -> Iterator[str]:
        yield from self.of.cautions(max_staleness)

    def try_out(self) -> None:
        self.of.try_out()

    def shipped(self) -> "LCPOConfig":
        return replace(self, of=self.of.shipped())

    def mark(self, pair: Preference) -> Preference:
        return self.of.mark(pair)

    def statistic(self, step: Columns) -> float:
        return self.of.statistic(step)

    def loss(self, pairs: Pairs) -> Tensor:
        """-c·ln p - (1-c)·ln(1-p): p is how much less the loss is under the label than under its
        opposite, as a probability, and c how likely that makes the label to be right."""
        # Cao et al. 2025, arXiv 2509.24159
        lead_B = self._lead(pairs)
        confidence_B = self._confidence(lead_B, pairs.memory)
        return -confidence_B * log_sigmoid(lead_B) - (1 - confidence_B) * log_sigmoid(-lead_B)

    def _lead(self, pairs: Pairs) -> Tensor:
        return self.of.loss(pairs.reversed()) - self.of.loss(pairs)

    def _confidence(self, lead_B: Tensor, memory: Mapping[str, float]) -> Tensor:
        """pη / (pη + (1-p)(1-η)), in which the odds of p and of η are multiplied; no gradient."""
        reliability_B = lead_B.new_full(lead_B.shape, memory[RELIABILITY])
        return (lead_B.detach() + reliability_B.logit()).sigmoid()

    def first_memory(self) -> Mapping[str, float]:
        return {RELIABILITY: self.reliability}

    def noticed(self, pairs: Pairs) -> Mapping[str, Tensor]:
        return {RELIABILITY: self._confidence(self._lead(pairs), pairs.memory)}

    def after_step(
        self, memory: Mapping[str, float], means: Mapping[str, float]
    ) -> Mapping[str, float]:
        moved = (1 - self.step) * memory[RELIABILITY] + self.step * means[RELIABILITY]
        return {RELIABILITY: min(max(moved, 1 - _MOST), _MOST)}
