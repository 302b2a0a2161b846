"""A panel at work: members are asked at the same time, and their verdicts joined."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rlhf.data.messages import asked
from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.source import read_source, taking
from rlhf.judges.combining import (
    OF_MATRICES,
    OF_SCORES,
    Combine,
    Scores,
    Weights,
    as_matrix,
    standardised,
)
from rlhf.judges.function import Returns, verdict
from rlhf.records import Comparison, Completion, Judgement, Prompt, Verdict
from rlhf.stages import Judge

PARAMETERS = ("prompt", "completions", "parts")
KEY = "judge.function"
TIMEOUT_S = 60.0
"""Of one call of `judge.function`."""
OVERLAP = 64
"""Calls of it at a time, if it is async."""


class FunctionCombination:
    """The user's function, in a process of its own; raises InputError if it cannot be used."""

    def __init__(self, reference: str) -> None:
        source = read_source(KEY, reference)
        self._process = FunctionProcess(source, taking(*PARAMETERS), TIMEOUT_S, OVERLAP)

    async def __call__(
        self, prompt: Prompt, texts: Sequence[str], parts: Mapping[str, Scores], judge: str
    ) -> Judgement:
        """No scores, and why, where the function fails."""
        named = {name: list(scores) for name, scores in parts.items()}
        try:
            found = await self._process.call(asked(prompt.messages), list(texts), named)
            judgement = verdict(found, len(texts), Returns.scores, judge)
            assert isinstance(judgement, Judgement)
            return judgement
        except (FunctionFailed, ValueError) as error:
            return Judgement((None,) * len(texts), judge, reasons=(str(error),) * len(texts))

    def close(self) -> None:
        self._process.close()


class Way(NamedTuple):
    """How verdicts become one."""

    combine: Combine
    weights: Weights
    """Of every member."""
    compares: bool
    """Whether they become win probabilities; else scores."""
    standardise: bool
    function: str | None


class Panel:
    """`rlhf.stages.Judge` over judges, which are asked at the same time.

    Raises InputError if the function that is to combine them cannot be used.
    """

    def __init__(self, way: Way, members: Mapping[str, Judge]) -> None:
        self._way = way
        self._members = members
        self._function = FunctionCombination(way.function) if way.function else None

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        """None where a member that is needed failed; of a majority, where nobody says anything."""
        asked = (member.judge(prompt, completions) for member in self._members.values())
        verdicts = dict(zip(self._members, await asyncio.gather(*asked), strict=True))
        verdict = await self._joined(prompt, completions, verdicts)
        num_written = sum(one.num_written_tokens for one in verdicts.values())
        return replace(verdict, num_written_tokens=num_written) if num_written else verdict

    async def _joined(
        self, prompt: Prompt, completions: Sequence[Completion], verdicts: Mapping[str, Verdict]
    ) -> Verdict:
        name, combine = self._name(verdicts), self._way.combine
        parts, reasons = all_parts(verdicts), all_reasons(verdicts, len(completions))
        failures = all_failures(verdicts)
        if self._way.compares:
            matrices = {name: as_matrix(one) for name, one in verdicts.items()}
            rows = OF_MATRICES[combine](matrices, self._way.weights)
            return Comparison(rows, name, _disagreement(verdicts), parts, reasons, failures)
        scores = {name: one.scores for name, one in verdicts.items()}
        if self._way.standardise:
            scores = {name: standardised(one) for name, one in scores.items()}
        if self._function is None:
            found = OF_SCORES[combine](scores, self._way.weights)
            return Judgement(found, name, parts, reasons, failures)
        texts = [prompt.prefix + completion.text for completion in completions]
        found = await self._function(prompt, texts, scores, name)
        why = all_reasons({"panel": found}, len(completions))
        parts, reasons = {**parts, **found.parts}, _both(why, reasons)
        return Judgement(found.scores, name, parts, reasons, failures)

    def _name(self, verdicts: Mapping[str, Verdict]) -> str:
        how = self._way.combine.value + (", standardised" if self._way.standardise else "")
        asked = (
            f"{self._way.weights[name]:g} {name}={one.judge}" for name, one in verdicts.items()
        )
        return f"panel/{how}({', '.join(asked)})@1"


def all_parts(verdicts: Mapping[str, Verdict]) -> dict[str, Scores]:
    """Each member's scores by its name, and its parts by `NAME.PART`."""
    found: dict[str, Scores] = {}
    for name, one in verdicts.items():
        found[name] = one.scores
        found |= {f"{name}.{part}": values for part, values in one.parts.items()}
    return found


def all_failures(verdicts: Mapping[str, Verdict]) -> dict[str, tuple[bool, ...]]:
    """Each member's by its name, of one that compares once per pair, and its members' likewise."""
    found: dict[str, tuple[bool, ...]] = {}
    for name, one in verdicts.items():
        found[name] = one.failed
        found |= {f"{name}.{member}": failed for member, failed in one.member_failures.items()}
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
