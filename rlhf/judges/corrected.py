"""A verifier that is known to err, corrected for how often it does."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.texts import location
from rlhf.judges.base import JudgeConfig, Seat
from rlhf.judges.joining import all_failures, all_parts
from rlhf.judges.members import member_problems, needs_of
from rlhf.judges.rates import (
    CONFIRMED,
    MEMBER,
    OVERTURNED,
    Rates,
    Seen,
    rates_in,
    running,
    seen,
)
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Completion, Judgement, Prompt, Verdict
from rlhf.seeds import derive_seed
from rlhf.stages import Judge

APPEAL = "appeal"


class Form(Enum):
    backward = "backward"
    """(r - p) / (1 - p - q), whose mean is the share that is really right."""
    forward = "forward"
    """q - 1 for what fails and q for what passes: 0 on average for right answers, and -(1 - p - q)
    for wrong ones, to be weights of a policy gradient. It needs no p."""


@dataclass
class CorrectedConfig(JudgeConfig):
    """Noisy outcomes r of 0 or 1, corrected by how often a wrong answer passes, p, and how often a
    right one does not, q (Natarajan et al. 2013, Learning with noisy labels, Lemma 1; 2025, arXiv
    2510.00915, for verifiers, whose appeals these are).

    It says nothing of single answers: pairs stay as they are, with other margins.
    """

    name: ClassVar[str] = "corrected"

    members: dict[str, JudgeConfig] = field(default_factory=dict)
    """The judge `of`: `judge@judge.members.of=verifier`; and perhaps one that knows better,
    `+judge@judge.members.appeal=...`, which is asked about some answers and changes no score."""
    false_positive: float = number(0.1, at_least=0, below=1)
    false_negative: float = number(0.1, at_least=0, below=1)
    rates_file: str | None = location(None)
    """Instead of both: JSON of them, as `python -m rlhf.reward.rates` writes it."""
    form: Form = Form.backward
    appeals: float = number(0.1, above=0, at_most=1)
    """Share of the answers that `appeal` is asked about; which, follows from their text."""
    estimate: bool = False
    """Estimate both rates as the run goes on, by the appeals of earlier rounds, beside which those
    above count as much as 20 wrong answers and 20 right ones. Evaluations go by those above, so
    that they can be compared."""

    def asks(self) -> Mapping[str, JudgeConfig]:
        return self.members

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

    @property
    def rates(self) -> Rates:
        """Those of the file, if there is a good one."""
        with suppress(InputError):  # `problems` tells it
            if self.rates_file is not None:
                return rates_in(self.rates_file)
        return Rates(self.false_positive, self.false_negative)

    @property
    def learns(self) -> bool:
        return self.estimate

    def noted(self, name: str, verdicts: Sequence[Verdict]) -> Any:
        prefix = f"{name}." if name else ""
        return list(seen([one.parts for one in verdicts], prefix))

    @contextmanager
    def knowing(self, notes: Sequence[Any]) -> Iterator[None]:
        """Raises WorthNothing for rates that cannot be corrected for."""
        total = Seen(*map(sum, zip(*notes, strict=True)))
        before = _RUNNING.get()
        token = _RUNNING.set((*before, (self, running(self.rates, total))))
        try:
            yield
        finally:
            _RUNNING.reset(token)

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def needs(self) -> Mapping[Fact, str]:
        return needs_of(self.members)

    def problems(self) -> Iterator[str]:
        if MEMBER not in self.members or self.members.keys() - {MEMBER, APPEAL}:
            told = ", ".join(self.members) or "none"
            yield (
                f"judge.members: has {told}, and judge=corrected the member {MEMBER}, and perhaps "
                f"{APPEAL}"
            )
            return
        if self.estimate and APPEAL not in self.members:
            yield (
                "judge.estimate=true: needs one who knows better; add "
                "+judge@judge.members.appeal=..., or remove it"
            )
        problems = list(member_problems(self.members))
        yield from problems
        yield from (
            f"judge@judge.members.{name}={member.name}: does not say right or wrong; take one that "
            "does, such as verifier"
            for name, member in self.members.items()
            if not problems and Fact.outcomes not in member.gives()
        )
        yield from self._rate_problems()

    def _rate_problems(self) -> Iterator[str]:
        told = (
            f"judge.false_positive={self.false_positive:g} "
            f"judge.false_negative={self.false_negative:g}"
        )
        if self.rates_file is not None:
            told = f"judge.rates_file={self.rates_file}"
            try:
                rates_in(self.rates_file)
            except InputError as error:
                yield from error.problems
        if sum(self.rates) >= 1:
            yield f"{told}: with a sum of 1 or more it says less than a guess; lower either"

    def over(self, members: Mapping[str, Judge]) -> "Corrected":
        return Corrected(self, members[MEMBER], members.get(APPEAL))


class Corrected:
    """`rlhf.stages.Judge` over one that says right or wrong, whose own word is the part `of`."""

    def __init__(self, config: CorrectedConfig, judge: Judge, appeal: Judge | None) -> None:
        self._judge = judge
        self._appeal = appeal
        self._config = config
        self._rates = config.rates
        self._form = config.form
        self._share = config.appeals

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Judgement:
        """Missing where it is."""
        found = await self._judge.judge(prompt, completions)
        assert isinstance(found, Judgement), "who says right or wrong gives scores"
        rates = next((r for one, r in _RUNNING.get() if one is self._config), self._rates)
        scores = tuple(None if r is None else corrected(r, rates, self._form) for r in found.scores)
        told = "{:g},{:g}".format(*rates)
        size = len(scores)
        in_force = {name: (rate,) * size for name, rate in rates._asdict().items()}
        form = "" if self._form is Form.backward else f"{self._form.value}: "
        verdict = replace(
            found,
            scores=scores,
            judge=f"corrected({form}{told})/{found.judge}@1",
            parts=all_parts({MEMBER: found}) | (in_force if self._config.estimate else {}),
            member_failures=all_failures({MEMBER: found}),
        )
        return (
            verdict
            if self._appeal is None
            else await self._with_appeals(self._appeal, verdict, prompt, completions)
        )

    async def _with_appeals(
        self, appeal: Judge, verdict: Judgement, prompt: Prompt, completions: Sequence[Completion]
    ) -> Judgement:
        """With what the appeal says of some, as parts."""
        outcomes = verdict.parts[MEMBER]
        asked = [
            i
            for i, one in enumerate(completions)
            if outcomes[i] is not None and _drawn(prompt, one) < self._share
        ]
        missing: list[float | None] = [None] * len(completions)
        parts = {OVERTURNED: list(missing), CONFIRMED: list(missing)}
        failures = dict(verdict.member_failures)
        if asked:
            found = await appeal.judge(prompt, [completions[i] for i in asked])
            for i, score in zip(asked, found.scores, strict=True):
                parts[CONFIRMED if outcomes[i] == 1 else OVERTURNED][i] = score
            failures |= all_failures({APPEAL: found})
        told = {name: tuple(values) for name, values in parts.items()}
        return replace(verdict, parts={**verdict.parts, **told}, member_failures=failures)


_RUNNING: ContextVar[tuple[tuple[CorrectedConfig, Rates], ...]] = ContextVar("running", default=())
"""The rates that are in force while a round is collected, of those whose rates are estimated."""


def _drawn(prompt: Prompt, completion: Completion) -> float:
    """From 0 up to 1, evenly, and the same for the same answer."""
    return derive_seed("appeal", prompt.id, prompt.prefix + completion.text) / 2**62


def corrected(outcome: float, rates: Rates, form: Form = Form.backward) -> float:
    """Of 0 or 1, in that form."""
    if form is Form.forward:
        return rates.false_negative - 1 + outcome
    return (outcome - rates.false_positive) / (1 - sum(rates))
