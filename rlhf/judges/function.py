"""Your own reward: a function that is called with one group of completions at a time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, ClassVar

from omegaconf import MISSING

from rlhf.config.texts import text
from rlhf.data.messages import asked, whole_row
from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.source import FunctionSource, is_finite, read_source, shown, taking
from rlhf.judges.base import JudgeConfig
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Comparison, Completion, Judgement, Nats, Prompt, TokenIds, Verdict

PARAMETERS = ("prompt", "completions", "row")
KEY = "judge.function"


class Returns(Enum):
    scores = "scores"
    """A number per completion, higher is better."""
    outcomes = "outcomes"
    """1 for a right completion, 0 for a wrong one: evaluations tell how many are right."""
    matrix = "matrix"
    """[i][j]: the probability that completion i is better than j."""


@dataclass
class FunctionJudgeConfig(JudgeConfig):
    """`def score(prompt, completions, row)`, plain or async, which runs in processes of its own,
    `num_workers` of them. It is not locked in.

    `prompt` is text, or a list of messages if it has several; `completions` a list of texts; `row`
    the whole row of the data file. It returns a score for each, None where it cannot tell; or a
    matrix; or a mapping of named parts to scores, which are added up unless one is called `score`.
    """

    name: ClassVar[str] = "function"

    function: str = text(MISSING)
    """`rewards.py:score`, or `package.module:score`."""
    returns: Returns = Returns.scores
    timeout_s: float = number(60.0, above=0)
    """Of one call; one that takes longer is a judge failure."""
    overlap: int = number(64, at_least=1)
    """Calls at a time in a worker, of an async function."""

    def gives(self) -> Set[Fact]:
        more = {Returns.outcomes: Fact.outcomes, Returns.matrix: Fact.matrix}.get(self.returns)
        return {Fact.verdicts} | ({more} if more else set())

    @property
    def calls_per_worker(self) -> int:
        return self.overlap

    @property
    def reads_rows(self) -> bool:
        return True

    def inspect(self, asked: Set[Fact]) -> None:
        read_source(KEY, self.function)

    def rehearse(self, prompt: Prompt) -> None:
        source = read_source(KEY, self.function)
        judge = FunctionJudge(self, source)
        texts = ["", prompt.answer or "1"]
        completions = [
            Completion(prompt.id, sample, TokenIds([0]), Nats([0.0]), text, False, 0)
            for sample, text in enumerate(texts)
        ]
        try:
            verdict = asyncio.run(judge.judge(prompt, completions))
        finally:
            judge.close()
        failed = [why for why in verdict.reasons if why]
        if all(verdict.failed) and failed:
            raise source.refused(f"called with the prompt {prompt.id} and {texts}: {failed[0]}")

    def builder(self) -> "Callable[[], FunctionJudge]":
        return partial(FunctionJudge, self, read_source(KEY, self.function))


class FunctionJudge:
    """`rlhf.stages.Judge` by a user's function; raises InputError if that cannot be used."""

    def __init__(self, config: FunctionJudgeConfig, source: FunctionSource) -> None:
        self._returns = config.returns
        self._name = f"function/{source.version}"
        self._process = FunctionProcess(
            source, taking(*PARAMETERS), config.timeout_s, config.overlap
        )

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        """None in place of every number, and why, where the function fails."""
        texts = [prompt.prefix + completion.text for completion in completions]
        try:
            row = whole_row(prompt.id, prompt.messages, prompt.answer, prompt.row)
            found = await self._process.call(asked(prompt.messages), texts, row)
            return verdict(found, len(texts), self._returns, self._name)
        except (FunctionFailed, ValueError) as error:
            return _nothing(len(texts), self._returns, self._name, str(error))

    def close(self) -> None:
        self._process.close()


def verdict(found: Any, size: int, returns: Returns, judge: str) -> Verdict:
    """What a function returned, checked; raises ValueError that says what is wrong with it."""
    if returns is Returns.matrix:
        rows = tuple(_numbers(row, size) for row in _listed(found, size))
        for i in range(size):
            _require_halves(rows, i)
        fixed = tuple(
            tuple(0.5 if i == j else value for j, value in enumerate(row))
            for i, row in enumerate(rows)
        )
        return Comparison(fixed, judge)
    parts = {}
    if isinstance(found, Mapping):
        if not found:
            raise ValueError("returned a mapping without parts")
        parts = {name: _numbers(values, size) for name, values in found.items()}
        total = parts.pop("score", None)
        scores = tuple(map(_sum, zip(*parts.values(), strict=True))) if total is None else total
    else:
        scores = _numbers(found, size)
    if returns is Returns.outcomes and (other := set(scores) - {0.0, 1.0, None}):
        raise ValueError(f"returned {other.pop()}, and with judge.returns=outcomes 0, 1 or None")
    return Judgement(scores, judge, parts)


def _nothing(size: int, returns: Returns, judge: str, why: str) -> Verdict:
    reasons = (why,) * size
    if returns is Returns.matrix:
        rows = tuple(tuple(0.5 if i == j else None for j in range(size)) for i in range(size))
        return Comparison(rows, judge, reasons=reasons)
    return Judgement((None,) * size, judge, reasons=reasons)


def _listed(found: Any, size: int) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError(f"returned {shown(found)}, not a list of {size}, one per completion")
    if len(found) != size:
        raise ValueError(f"returned {len(found)} values for {size} completions: {shown(found)}")
    return found


def _numbers(found: Any, size: int) -> tuple[float | None, ...]:
    for value in _listed(found, size):
        if not (value is None or isinstance(value, int | float)):
            raise ValueError(f"returned {shown(value)} for a completion, not a number or None")
        if value is not None and not is_finite(value):
            raise ValueError(f"returned {value} for a completion; None says that there is no score")
    return tuple(None if value is None else float(value) for value in found)


def _require_halves(rows: tuple[tuple[float | None, ...], ...], i: int) -> None:
    for j in range(i):
        one, other = rows[i][j], rows[j][i]
        if (one is None) != (other is None) or (
            one is not None
            and other is not None
            and not (0 <= one <= 1 and abs(one + other - 1) <= 1e-6)
        ):
            raise ValueError(
                f"returned {other} for {j} against {i} and {one} for {i} against {j}; the two are "
                "probabilities, and make 1"
            )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
