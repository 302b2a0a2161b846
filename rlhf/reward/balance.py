"""How much each source of preferences counts in a step (balance=more).

Zeng et al. 2024 (On Diversified Preferences of Large Language Model Alignment, MORE), arXiv
2312.07401: the weights of the sources' losses make the head's gradient as short as it can be, so
that what one source asks for and another does not is learnt least.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rlhf.judges.models.classifiers import Classifier
from rlhf.reward.encoding import Encoded

MOST_STEPS = 1000
TOLERANCE = 1e-9
"""Of the squared length that one more step of Frank-Wolfe would win, relative to what it is."""

Losses = Callable[[Sequence[Encoded]], Tensor]
"""The loss of each example, of so many that one forward pass may have them."""
Batches = Sequence[Sequence[Encoded]]


def shortest(gradients: Sequence[Sequence[float]] | Tensor) -> list[float]:
    """Weights, at least 0 and 1 together, of the shortest weighted sum of the gradients; equal ones
    where all are equal."""
    rows = torch.as_tensor(gradients, dtype=torch.float64)
    products = rows @ rows.T
    weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    for _ in range(MOST_STEPS):
        along = products @ weights
        best = int(along.argmin())
        length, gain = weights @ along, weights @ along - along[best]
        if gain <= TOLERANCE * length:
            break
        # Where the line from the weights to that corner is shortest.
        apart = length - 2 * along[best] + products[best, best]
        step = float((gain / apart).clamp(0, 1))
        weights *= 1 - step
        weights[best] += step
    return weights.tolist()


class SourceBalance:
    """The weights of sources, by running means of the gradients that each has on the head."""

    def __init__(self, classifier: Classifier, memory: float) -> None:
        body = f"{classifier.model.base_model_prefix}."
        named = list(classifier.model.named_parameters())
        self._head = [p for name, p in named if not name.startswith(body) and p.requires_grad]
        self._body = [p for name, p in named if name.startswith(body) and p.requires_grad]
        self._memory = memory
        self._means: dict[str, Tensor] = {}
        self._sums: dict[str, float] = {}
        self._num_steps: dict[str, int] = {}

    def weights(self, batches: Batches, losses: Losses) -> Mapping[str, float]:
        """Of each source that a step has; `batches`: the step's examples, cut for forward passes.

        It takes a forward pass of its own, without a gradient of anything below the head.
        """
        for source, gradient in self._gradients(batches, losses).items():
            before = self._means.get(source)
            kept = self._memory if before is not None else 0.0
            mean = gradient if before is None else kept * before + (1 - kept) * gradient
            self._means[source] = mean
        there = sorted({one.source for batch in batches for one in batch})
        found = shortest(torch.stack([self._means[source] for source in there]))
        weights = dict(zip(there, found, strict=True))
        for source, weight in weights.items():
            self._sums[source] = self._sums.get(source, 0.0) + weight
            self._num_steps[source] = self._num_steps.get(source, 0) + 1
        return weights

    @property
    def mean_weights(self) -> dict[str, float]:
        """Over the steps so far that had the source."""
        return {source: self._sums[source] / self._num_steps[source] for source in self._sums}

    def _gradients(self, batches: Batches, losses: Losses) -> dict[str, Tensor]:
        """Of each source's mean loss, on the head, as one row."""
        counts: dict[str, int] = {}
        for one in (one for batch in batches for one in batch):
            counts[one.source] = counts.get(one.source, 0) + 1
        found: dict[str, Tensor] = {}
        for parameter in self._body:
            parameter.requires_grad_(False)
        try:
            for batch in batches:
                loss_B = losses(batch)
                for source in sorted({one.source for one in batch}):
                    own_B = torch.tensor([one.source == source for one in batch])
                    mean = loss_B[own_B.to(loss_B.device)].sum() / counts[source]
                    parts = torch.autograd.grad(mean, self._head, retain_graph=True)
                    row = torch.cat([part.flatten() for part in parts]).double().cpu()
                    found[source] = found[source] + row if source in found else row
        finally:
            for parameter in self._body:
                parameter.requires_grad_(True)
        return found
