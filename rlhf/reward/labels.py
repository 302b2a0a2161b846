"""Which side of a preference is learnt to be the better one, and how surely, before training.

Labels come from votes by several criteria, or are repaired by the strength of an ensemble's
preference (Wang et al. 2024, Secrets of RLHF II, arXiv 2401.06080).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rlhf.config.reward import Kind, RepairConfig, RewardTrainingConfig
from rlhf.data.preference_files import Example, Examples
from rlhf.seeds import derive_seed


class Strength(NamedTuple):
    """Of an ensemble's preference for the chosen side."""

    mean: float
    deviation: float
    """Between its members, of the population."""

    @property
    def doubts(self) -> bool:
        """Whether its members prefer the other side, and agree on it."""
        return self.mean < 0 and self.deviation <= -self.mean


def strength(differences: Sequence[float]) -> Strength:
    """Of each member's score of the chosen side, minus its score of the other."""
    mean = math.fsum(differences) / len(differences)
    spread = math.fsum((one - mean) ** 2 for one in differences) / len(differences)
    return Strength(mean, math.sqrt(spread))


def labelled(config: RewardTrainingConfig, examples: Examples) -> tuple[Examples, dict[str, int]]:
    """What is learnt from and what is measured by, and how many labels were changed.

    Held-out rows are not repaired: they measure by the labels that people gave.
    """
    data, counts = config.data, {}
    train, heldout = examples.train, examples.heldout
    if data.vote_columns and config.kind is not Kind.attributes:
        weights = [data.vote_weights.get(name, 1.0) for name in data.vote_columns]
        train, heldout = ([voted(one, weights) for one in rows] for rows in (train, heldout))
    if data.strength_column is not None:
        train, counts = repaired(train, config.repair)
    if data.resample:
        train = random.Random(derive_seed(config.seed, "resample")).choices(train, k=len(train))
    return replace(examples, train=train, heldout=heldout), counts


def voted(example: Example, weights: Sequence[float]) -> Example:
    """With the weighted mean of the votes that are known as its label; 1/2 if none of them
    counts."""
    known = [(w, v) for w, v in zip(weights, example.targets, strict=True) if not math.isnan(v)]
    total = sum(weight for weight, _ in known)
    label = sum(weight * vote for weight, vote in known) / total if total else 0.5
    found = replace(example, targets=(), label=label)
    return found if label >= 0.5 else found.exchanged()


def repaired(
    examples: Sequence[Example], config: RepairConfig
) -> tuple[list[Example], dict[str, int]]:
    """By rank of the mean strength: the first are exchanged if the ensemble agrees that they are
    the wrong way round, these others and those that follow get a label less sure, the rest stay.

    An ensemble that disagrees with itself says that a row is hard, not that it is wrong.
    """
    found = list(examples)
    strengths = [strength(one.strengths) for one in examples]
    order = sorted(range(len(found)), key=lambda i: strengths[i].mean)
    first = round(config.flip * len(found))
    last = first + round(config.smooth * len(found))
    counts = {"flipped": 0, "smoothed": 0}
    for place, i in enumerate(order[:last]):
        if place < first and strengths[i].doubts:
            found[i] = replace(found[i].exchanged(), label=1.0)
            counts["flipped"] += 1
        else:
            found[i] = replace(found[i], label=config.label)
            counts["smoothed"] += 1
    return found, counts


def vote_weight_problems(columns: Sequence[str], weights: Mapping[str, float]) -> list[str]:
    """What cannot be of `data.vote_weights`."""
    there = ", ".join(columns) or "none"
    problems = [
        f"data.vote_weights.{name}: is none of data.vote_columns; there are {there}"
        for name in weights
        if name not in columns
    ]
    problems += [
        f"data.vote_weights.{name}={weight}: must be a number, and at least 0"
        for name, weight in weights.items()
        if not 0 <= weight < math.inf
    ]
    if columns and not problems and not any(weights.get(name, 1.0) for name in columns):
        problems.append("data.vote_weights: all criteria weigh 0; leave one its weight")
    return problems
