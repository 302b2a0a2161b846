"""A panel: several judges, of any kind and panels too, whose verdicts become one."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from typing import Any, ClassVar

from rlhf.config.texts import text
from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.source import read_source
from rlhf.judges.base import JudgeConfig, Seat
from rlhf.judges.combining import (
    EVEN,
    OF_MATRICES,
    OF_SCORES,
    Combine,
    Scores,
    as_matrix,
    standardised,
)
from rlhf.judges.function import Returns, asked, verdict
from rlhf.judges.members import member_problems, needs_of
from rlhf.options import Fact
from rlhf.records import Comparison, Completion, Judgement, Prompt, Verdict
from rlhf.stages import Judge

PARAMETERS = ("prompt", "completions", "parts")
KEY = "judge.function"
TIMEOUT_S = 60.0
"""Of one call of `judge.function`."""
OVERLAP = 64
"""Calls of it at a time, if it is async."""
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
        return {name: self.weights.get(name, 1.0) for name in self.members}

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
        unknown = list(_unknown_weights(self.weights, self.members))
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
        return Panel(self, members)


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
    if not counting:
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


class FunctionCombination:
    """The user's function, in a process of its own; raises InputError if it cannot be used."""

    def __init__(self, reference: str) -> None:
        source = read_source(KEY, reference)
        self._process = FunctionProcess(source, PARAMETERS, TIMEOUT_S, OVERLAP)

    async def __call__(
        self, prompt: Prompt, texts: Sequence[str], parts: Mapping[str, Scores], judge: str
    ) -> Judgement:
        """No scores, and why, where the function fails."""
        named = {name: list(scores) for name, scores in parts.items()}
        try:
            found = await self._process.call(asked(prompt), list(texts), named)
            judgement = verdict(found, len(texts), Returns.scores, judge)
            assert isinstance(judgement, Judgement)
            return judgement
        except (FunctionFailed, ValueError) as error:
            return Judgement((None,) * len(texts), judge, reasons=(str(error),) * len(texts))

    def close(self) -> None:
        self._process.close()


class Panel:
    """`rlhf.stages.Judge` over judges, which are asked at the same time.

    Raises InputError if the function that is to combine them cannot be used.
    """

    def __init__(self, config: PanelConfig, members: Mapping[str, Judge]) -> None:
        self._config = config
        self._members = members
        self._weights = config.every_weight()
        self._compares = config.compares()
        self._function = FunctionCombination(config.function) if config.function else None

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        """None where a member that is needed failed; of a majority, where nobody says anything."""
        asked = (member.judge(prompt, completions) for member in self._members.values())
        verdicts = dict(zip(self._members, await asyncio.gather(*asked), strict=True))
        name, combine = self._name(verdicts), self._config.combine
        parts, reasons = all_parts(verdicts), all_reasons(verdicts, len(completions))
        if self._compares:
            matrices = {name: as_matrix(one) for name, one in verdicts.items()}
            rows = OF_MATRICES[combine](matrices, self._weights)
            return Comparison(rows, name, _disagreement(verdicts), parts, reasons)
        scores = {name: one.scores for name, one in verdicts.items()}
        if self._config.standardise:
            scores = {name: standardised(one) for name, one in scores.items()}
        if self._function is None:
            return Judgement(OF_SCORES[combine](scores, self._weights), name, parts, reasons)
        texts = [prompt.prefix + completion.text for completion in completions]
        found = await self._function(prompt, texts, scores, name)
        why = all_reasons({"panel": found}, len(completions))
        return Judgement(found.scores, name, {**parts, **found.parts}, _both(why, reasons))

    def _name(self, verdicts: Mapping[str, Verdict]) -> str:
        how = self._config.combine.value + (", standardised" if self._config.standardise else "")
        asked = (f"{self._weights[name]:g} {name}={one.judge}" for name, one in verdicts.items())
        return f"panel/{how}({', '.join(asked)})@1"


def all_parts(verdicts: Mapping[str, Verdict]) -> dict[str, Scores]:
    """Each member's scores by its name, and its parts by `NAME.PART`."""
    found: dict[str, Scores] = {}
    for name, one in verdicts.items():
        found[name] = one.scores
        found |= {f"{name}.{part}": values for part, values in one.parts.items()}
    return found


def all_reasons(verdicts: Mapping[str, Verdict], size: int) -> tuple[str, ...]:
    """`maths: ...; taste: ...` for each completion, of members that gave reasons."""
    if not any(one.reasons for one in verdicts.values()):
        return ()
    return tuple(
        "; ".join(
            f"{name}: {one.reasons[place]}"
            for name, one in verdicts.items()
            if one.reasons and one.reasons[place]
        )
        for place in range(size)
    )


def _both(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    if not (first and second):
        return tuple(first or second)
    return tuple("; ".join(filter(None, both)) for both in zip(first, second, strict=True))


def _disagreement(verdicts: Mapping[str, Verdict]) -> float | None:
    """The mean of the members' that see an order."""
    known = [
        one.order_disagreement
        for one in verdicts.values()
        if isinstance(one, Comparison) and one.order_disagreement is not None
    ]
    return sum(known) / len(known) if known else None
