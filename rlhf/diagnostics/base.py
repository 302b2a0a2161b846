"""What every diagnostic says of itself, and what it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import PairLogprobs, Pairs, SideLogprobs, margin

LAST = 100


class Metric(NamedTuple):
    """What a number means, in one line."""

    meaning: str
    unit: str = ""
    """`share` is from 0 to 1; a name may end with its unit too."""
    good: str = ""
    """What a good curve does, for the page about metrics: Markdown."""


@dataclass(frozen=True, slots=True)
class TrainedPairs:
    """What is known of some pairs in training: what their loss was given, and the loss."""

    objective: ObjectiveConfig
    loss_B: Tensor
    given: Pairs

    @property
    def log_ratios(self) -> SideLogprobs | PairLogprobs:
        """To the objective's first anchor, or to nothing if it has none; summed over tokens."""
        needed = self.objective.anchor_names
        return self.given.log_ratios(needed[0]) if needed else self.given.policy

    @property
    def margin_B(self) -> Tensor:
        """How far the policy is on the chosen side, in summed nats: the difference of log-ratios.

        Before β and per pair, not per token, so that objectives can be compared.
        """
        return margin(self.log_ratios)


@dataclass(frozen=True, slots=True)
class PairMetric:
    """A number of a pair, logged as its weighted mean over the pairs of all steps."""

    name: str
    """Without `policy/`."""
    metric: Metric
    label: str
    """In the legend; sides that are called `chosen` and `rejected` have their colours."""
    measure: Callable[[TrainedPairs], Tensor]
    """One number per pair, `(B,)`, of the loss's type."""
    is_of: Callable[[ObjectiveConfig], bool] = lambda _: True
    """Whether pairs under this objective have it."""


class Diagnostic:
    """Metrics of one unit that share a panel; a subclass is one, and is never made."""

    name: ClassVar[str]
    title: ClassVar[str]
    axis: ClassVar[str]
    metrics: ClassVar[Sequence[PairMetric]]
    place: ClassVar[int] = LAST
    """Panels are drawn from the lowest to the highest, and equal ones by the names of files."""
