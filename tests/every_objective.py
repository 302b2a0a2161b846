"""Every objective that there is, pairs that each learns from, and the gradient that it has on them.

Dimensions: R rows, C completion tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.models import LOGPROB_NOISE, DType
from rlhf.learning.anchors import Anchors
from rlhf.learning.packing import Packing
from rlhf.learning.pair_losses import PairLosses, units_of
from rlhf.learning.reading import RowReader
from rlhf.models.batching import rank_micro_batches
from rlhf.objectives import OBJECTIVES, ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.function import FunctionObjectiveConfig
from rlhf.objectives.ipo import IPOConfig, Reduce
from rlhf.objectives.lcpo import LCPOConfig
from rlhf.objectives.rrpo import RRPOConfig
from rlhf.objectives.sppo import SPPOConfig, Target
from rlhf.objectives.vpo import Optimism, VPOConfig
from rlhf.records import (
    LOGGED,
    Collected,
    Columns,
    Completion,
    Preference,
    PreferenceBatch,
    Prompt,
    Tokens,
)

BUDGET_TOKENS = 150
"""Of a micro-batch: a few rows, so that a step has several."""
CPU = torch.device("cpu")
LOSS = Path(__file__).parents[1] / "examples" / "own_loss" / "loss.py"
WITH_KEYS = {
    "function": FunctionObjectiveConfig(function=f"{LOSS}:loss"),
    "lcpo": LCPOConfig(of=DPOConfig()),
}
"""Those that have keys without a default."""
VARIANTS = {
    "dpo, smoothed, with likelihood": DPOConfig(label_smoothing=0.1, nll_coef=1.0),
    "ipo of sums": IPOConfig(reduce=Reduce.sum),
    "lcpo of tokens": LCPOConfig(of=RRPOConfig()),
    "sppo of pairs": SPPOConfig(target=Target.pair),
    "vpo offline": VPOConfig(optimism=Optimism.offline),
}
"""Other values of keys, by which a loss has other terms."""


def every_objective() -> dict[str, ObjectiveConfig]:
    """As policy ranks get them, by their names."""
    registered = {name: WITH_KEYS.get(name) or made() for name, made in OBJECTIVES.items()}
    return {name: one.shipped() for name, one in (registered | VARIANTS).items()}


class Frozen:
    """An anchor: a token's nats follow from its number alone."""

    def __init__(self, nats: float) -> None:
        self._nats = nats

    async def token_logprobs(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        return [
            [
                own * -(self._nats + t % 5 / 4)
                for t, own in zip(row.completion, row.own, strict=True)
            ]
            for row in sequences
        ]

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [
            sum(n * w for n, w in zip(nats, row.weights, strict=True))
            for nats, row in zip(await self.token_logprobs(sequences), sequences, strict=True)
        ]


async def batch_of(objective: ObjectiveConfig) -> PreferenceBatch:
    """Three prompts, of each four answers and all six pairs: some tokens are a tool's, some count
    more, labels are more or less certain, and a side is the initial policy's or of a log."""
    sources = {"initial": Frozen(2.0), "previous": Frozen(2.5)}
    used = {name: sources[name] for name in objective.anchor_names}
    anchors = Anchors(used, objective)
    return await anchors.attach(0, [anchors.read(_answered(p)) for p in range(3)])


def _answered(p: int) -> Collected:
    prompt = Prompt(str(p), (), tuple((7 * p + k) % 13 + 3 for k in range(5 + 2 * p)))
    answers = []
    for a in range(4):
        tokens = tuple((p + 11 * (a // 2) + 5 * i) % 13 + 3 for i in range(3))
        tokens += tuple(a + 3 + i for i in range(1 + a))
        drawn = {"mixture": float(a == 1), "observed": ((1, 2),) if a == 2 else ()}
        version = LOGGED if a == p == 0 else 0
        nats = (0.0,) * len(tokens)
        answers.append(Completion(prompt.id, a, tokens, nats, "", False, version, **drawn))
    pairs = []
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        marks = (((0, 2, 0.5),), ()) if (i, j) == (0, 3) else ((), ())
        kept = {"weight": 1 / (6 + p), "win_prob": 1 - (i + j) / 12, "emphasis": marks}
        scores = 1 - i / 4, 1 - j / 4
        pairs.append(Preference.over(prompt, answers[i], answers[j], *scores, "j@1", **kept))
    return Collected(prompt, tuple(answers), None, tuple(pairs), ())


def gradient(
    model: Any,
    objective: ObjectiveConfig,
    batch: PreferenceBatch,
    packing: Packing | None = None,
    num_ranks: int = 1,
) -> dict[str, Tensor]:
    """Of the mean over the batch by the pairs' weights, for each parameter by its name; micro-batch
    by micro-batch, as so many ranks share them."""
    losses = PairLosses(objective, LOGPROB_NOISE[DType.float32], CPU)
    columns, reader = Columns.of(batch), RowReader(model, CPU, packing)
    loss = losses.of_step(objective.first_memory(), True, columns)
    model.zero_grad()
    for places in _micro_batches(objective, columns, reader, num_ranks):
        loss(reader.logprobs_RC, columns.at(places)).backward()
    weight = sum(pair.weight for pair in batch.preferences)
    found = {name: one.grad / weight for name, one in model.named_parameters()}
    model.zero_grad()
    return found


def _micro_batches(
    objective: ObjectiveConfig, columns: Columns, reader: RowReader, num_ranks: int
) -> Iterator[list[int]]:
    """All ranks', without those that are empty."""
    units = units_of(columns, reader, objective.needs_whole_lists, BUDGET_TOKENS)
    ranks = rank_micro_batches([unit.shape for unit in units], BUDGET_TOKENS, num_ranks)
    for micro_batch in (one for rank in ranks for one in rank if one):
        yield [i for unit in micro_batch for i in units[unit].places]


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of two gradients, as a share of the second one's norm."""
    assert found.keys() == expected.keys()
    return norm({name: found[name] - value for name, value in expected.items()}) / norm(expected)


def norm(gradient: dict[str, Tensor]) -> float:
    """In double precision: torch adds the squares of a long vector up with an error of 1e-5."""
    return torch.cat([value.flatten() for value in gradient.values()]).double().norm().item()
