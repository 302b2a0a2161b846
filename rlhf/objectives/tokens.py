"""Log-probabilities token by token, for losses that look into a side, and marks on its tokens.

Tensor names end in their dimensions: S the two sides, chosen before rejected, B pairs, C tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rlhf.objectives.late import Tensor
from rlhf.records import Side


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Nats of either side's tokens, each once, whatever is marked; 0 where nothing is its own."""

    policy_SBC: Tensor
    anchors: Mapping[str, Tensor]
    """By name, `(S, B, C)`."""
    own_SBC: Tensor
    """Whether there is a token, and the policy's own: no padding, and no tool's. bool."""

    def __post_init__(self) -> None:
        shapes = {tuple(one.shape) for one in (self.policy_SBC, self.own_SBC)}
        shapes |= {tuple(one.shape) for one in self.anchors.values()}
        if len(shapes) > 1 or self.policy_SBC.ndim != 3 or len(self.policy_SBC) != 2:
            raise ValueError(f"one number per side, pair and token, not shapes {sorted(shapes)}")

    def reversed(self) -> "TokenLogprobs":
        """With the rejected sides before the chosen ones."""
        anchors = {name: values.flip(0) for name, values in self.anchors.items()}
        return TokenLogprobs(self.policy_SBC.flip(0), anchors, self.own_SBC.flip(0))


def marked(side: Side, weights: Sequence[float]) -> Side:
    """The side with every token counted so many times more; one weight per completion token."""
    before = side.tokens.weights
    both = [a * b for a, b in zip(before, weights, strict=True)]
    return replace(side, emphasis=tuple(_spans(both)))


def _spans(weights: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    start = 0
    for weight, run in groupby(weights):
        end = start + len(list(run))
        if weight != 1:
            yield start, end, weight
        start = end
