"""A panel: several judges, of any kind and panels too, whose verdicts become one."""

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from rlhf.config.texts import location, text
from rlhf.functions.source import read_source
from rlhf.judges.base import JudgeConfig, Measure, Seat
from rlhf.judges.combining import (
    EVEN,
    OF_MATRICES,
    Combine,
    Scores,
)
from rlhf.judges.joining import KEY, FunctionCombination, Panel, Way
from rlhf.judges.members import member_problems, needs_of
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Prompt
from rlhf.stages import Judge

EXAMPLE = "+judge@judge.members.NAME=verifier"


@dataclass
class PanelConfig(JudgeConfig):
    """Judges by name, each with workers of its own, and how their verdicts become one.

    Each member's own score is a part of the verdict, under its name and as the member gave it; its
    parts are `NAME.PART`. Of a member that compares, the score of a completion is its mean win
    probability against the others of its group.
    """

    name: ClassVar[str] = "panel"

    members: dict[str, JudgeConfig] = field(default_factory=dict)
    """`+judge@judge.members.maths=verifier` adds one, `judge.members.maths.check=math` sets it."""
    combine: Combine = Combine.sum
    weights: dict[str, float] = field(default_factory=dict)
    """`'+judge.weights={maths: 1, taste: 0.1}'`; 1 where none is given. A member of weight 0 is
    watched: it has a part, and no say."""
    weights_file: str | None = location(None)
    """Instead: JSON of a weight for every member, as `python -m rlhf.reward.weights` writes it."""
    standardise: bool = False
    """Before they are combined, bring each member's scores of a group to mean 0 and sd 1 (of the
    population; equal ones to 0)."""
    function: str | None = text()
    """With combine=function: `combine.py:NAME`, of prompt, completions and parts, a mapping of
    lists of scores by member; it returns what one of `judge=function` may."""

    def asks(self) -> Mapping[str, JudgeConfig]:
        return self.members

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

    def every_weight(self) -> dict[str, float]:
        """By member, also where none was given."""
        given = self.weights
        if self.weights_file is not None:
            with suppress(InputError):  # `problems` tells it
                given = weights_in(self.weights_file)
        return {name: given.get(name, 1.0) for name in self.members}

    def compares(self) -> bool:
        """Whether its verdicts are win probabilities; else they are scores."""
        if self.combine is Combine.lexicographic:
            return True
        if self.combine is Combine.majority:
            return not self._all_give(Fact.outcomes)
        return self.combine in OF_MATRICES and self._all_give(Fact.matrix)

    def gives(self) -> Set[Fact]:
        """Outcomes of outcomes, by all of them or by most; numbers for how an answer begins where
        all members have such and no other completion counts."""
        if self.compares():
            return {Fact.verdicts, Fact.matrix}
        found = {Fact.verdicts}
        weights = set(self.every_weight().values()) - {0.0}
        of_right = self.combine in (Combine.product, Combine.majority) or (
            self.combine is Combine.minimum and weights == {1.0}
        )
        if of_right and not self.standardise and self._all_give(Fact.outcomes):
            found.add(Fact.outcomes)
        alone = (Combine.sum, Combine.product, Combine.minimum)
        if self.combine in alone and not self.standardise and self._all_give(Fact.partial_scores):
            found.add(Fact.partial_scores)
        return found

    def _all_give(self, fact: Fact) -> bool:
        """Those that count."""
        weights = self.every_weight()
        return all(fact in one.gives() for name, one in self.members.items() if weights[name])

    @property
    def measure(self) -> Measure:
        return Measure.parts if self.standardise else super().measure

    def needs(self) -> Mapping[Fact, str]:
        return needs_of(self.members)

    def problems(self) -> Iterator[str]:
        if not self.members:
            yield f"judge=panel: has no members; add {EXAMPLE}, and more"
            return
        yield from member_problems(self.members)
        if self.num_workers != 1:
            yield (
                f"judge.num_workers={self.num_workers}: a panel has no workers of its own; set "
                f"judge.members.{next(iter(self.members))}.num_workers"
            )
        unknown = [*_file_problems(self), *_unknown_weights(self.weights, self.members)]
        yield from unknown or _weight_problems(self)
        if self.standardise and (why := _not_standardised(self)):
            yield f"judge.standardise=true: {why}; remove it"
        if self.combine is Combine.function and self.function is None:
            yield f"{KEY}: is required with judge.combine=function; add {KEY}=combine.py:NAME"
        if self.combine is not Combine.function and self.function is not None:
            yield f"{KEY}={self.function}: is read with judge.combine=function only; remove it"

    def inspect(self, asked: Set[Fact]) -> None:
        if self.function is not None:
            read_source(KEY, self.function)

    def rehearse(self, prompt: Prompt) -> None:
        """Its function on two completions, one that every member scores with 1, one with 0."""
        if self.function is None:
            return
        combine = FunctionCombination(self.function)
        parts: dict[str, Scores] = dict.fromkeys(self.members, (0.0, 1.0))
        texts = ["", prompt.answer or "1"]
        try:
            found = asyncio.run(combine(prompt, texts, parts, "panel"))
        finally:
            combine.close()
        if all(found.failed):
            why = f"called with the prompt {prompt.id}, {texts} and {parts}: {found.reasons[0]}"
            raise read_source(KEY, self.function).refused(why)

    def over(self, members: Mapping[str, Judge]) -> "Panel":
        way = Way(
            self.combine, self.every_weight(), self.compares(), self.standardise, self.function
        )
        return Panel(way, members)


def weights_in(file: str) -> dict[str, float]:
    """By member; raises InputError if the file has no such."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return {str(name): float(weight) for name, weight in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            [f'judge.weights_file={file}: is no JSON such as {{"maths": 1.0}} ({error})']
        ) from error


def _file_problems(panel: PanelConfig) -> Iterator[str]:
    file = panel.weights_file
    if file is None:
        return
    if panel.weights:
        yield f"judge.weights_file={file}: judge.weights are given too; remove either"
        return
    try:
        given = weights_in(file)
    except InputError as error:
        yield from error.problems
        return
    yield from (
        f"judge.weights_file={file}: has no weight of {name}; add one, 0 for one that is watched"
        for name in panel.members.keys() - given.keys()
    )
    yield from (
        f"judge.weights_file={file}: has a weight of {name}, and there is no such member; there "
        f"is {', '.join(panel.members)}"
        for name in given.keys() - panel.members.keys()
    )


def _unknown_weights(weights: Mapping[str, float], members: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(weights.keys() - members.keys()):
        near = get_close_matches(name, members, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        key = f"judge.weights.{name}={weights[name]:g}"
        yield f"{key}: there is no such member; {hint}there is {', '.join(members)}"


def _weight_problems(panel: PanelConfig) -> Iterator[str]:
    """What weights cannot be, by how members are combined."""
    weights, combine = panel.every_weight(), panel.combine
    counting = {name: weight for name, weight in weights.items() if weight}
    told = "{" + ", ".join(f"{name}: {weight:g}" for name, weight in weights.items()) + "}"
    key = f"judge.weights={told}: with judge.combine={combine.value} "
    is_vote = combine in (Combine.majority, Combine.lexicographic)
    ranked = ", ".join(f"{name}: {place}" for place, name in enumerate(reversed(weights), 1))
    if not all(map(isfinite, weights.values())):
        yield f"judge.weights={told}: each must be a finite number"
    elif not counting:
        yield f"judge.weights={told}: nobody has a say; give one a weight other than 0"
    elif combine in (Combine.product, Combine.function) and set(counting.values()) != {1.0}:
        yield f"{key}a weight is 1, or 0 for a member that is watched only"
    elif (is_vote or panel.compares()) and min(counting.values()) < 0:
        yield f"{key}a weight is at least 0"
    elif combine is Combine.lexicographic and len(set(counting.values())) < len(counting):
        try_it = f"'+judge.weights={{{ranked}}}'"
        yield f"{key}the largest weight comes first, so no two are equal; try {try_it}"
    elif combine is Combine.majority and not panel.compares() and _can_tie(counting.values()):
        yield f"{key}votes on right or wrong can be equal; add a member, or give one more weight"


def _can_tie(weights: Collection[float]) -> bool:
    """Whether two sides of all of them can weigh the same."""
    total = sum(weights)
    return any(
        abs(2 * sum(side) - total) < EVEN
        for size in range(len(weights) // 2 + 1)
        for side in combinations(weights, size)
    )


def _not_standardised(panel: PanelConfig) -> str:
    if panel.combine in (Combine.majority, Combine.lexicographic):
        return f"judge.combine={panel.combine.value} asks for no more than which is larger"
    if panel.combine is Combine.product:
        return "what is below the mean is negative, and two such make a positive product"
    return "win probabilities are comparable as they are" if panel.compares() else ""
