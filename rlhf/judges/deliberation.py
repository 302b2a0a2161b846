"""A language model writes before it judges, and reads that again: its own answer, a critique, what
speaks for either side, what a tool has found."""

import asyncio
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import permutations
from math import fsum
from typing import ClassVar

from rlhf.judges.questions.asking import AskingConfig
from rlhf.judges.questions.choosing import Author, Clean
from rlhf.judges.questions.comparing import both_orders
from rlhf.judges.questions.deliberating import (
    PREPARE,
    RULES,
    Note,
    Plan,
    Sitting,
    Unwritten,
    trace,
)
from rlhf.judges.questions.template import LABELS
from rlhf.models.batching import unique
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Comparison, Completion, Judgement, Prompt, Verdict, transcript
from rlhf.tools.syntax import Instrument, ToolsConfig
from rlhf.tools.tool import cut

TRACE_CHARS = 4000
"""Of what was written about an answer, in the reason of its verdict."""
_TOOLS = re.compile(r"\btools(?=[.:])")


@dataclass
class DeliberationConfig(AskingConfig):
    """Notes in order, then the verdict, which has all of them in sight; of two answers in both
    orders, or of each answer alone where there is a `scale`.

    `judge=self_reference`, `judge=sides`, `judge=criteria` and `judge=themis` are of it.
    """

    name: ClassVar[str] = "deliberation"

    notes: dict[str, str] = field(default_factory=dict)
    """By name, what is to be written: `judge.notes.critique="Name the mistakes of both answers."`.
    """
    blind: list[str] = field(default_factory=list)
    """Names of notes that come first and are written with the request alone in sight, once for all
    of its answers."""
    rounds: int = number(1, at_least=1)
    """How often the others are gone through."""
    votes: int = number(1, at_least=1)
    """How often all of that is written, each time anew; the verdict is the mean."""
    scale: int | None = number(None, at_least=2, at_most=9)
    """Rate each answer alone from 1 to that, instead of comparing every two."""
    note_tokens: int = number(512, at_least=8)
    """Of a note; one that is longer is cut. A thought before it is not counted, and left out."""
    tools: ToolsConfig | None = None
    """`+tools@judge.tools=calculator`: what may be called in notes; runs on the driver's node."""

    def gives(self) -> Set[Fact]:
        if self.scale is not None:
            return {Fact.verdicts}
        argues = {Fact.arguments} if self.votes == 1 else set()  # a debate is held once
        return {Fact.verdicts, Fact.matrix} | argues

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for name in self.blind:
            if name not in self.notes:
                there = ", ".join(self.notes) or "none"
                yield f"judge.blind={name}: is none of judge.notes; there are {there}"
        for name, ask in self.notes.items():
            if not ask.strip():
                yield f"judge.notes.{name}: is empty; say what is to be written"
        if self.tools is not None:
            yield from map(_told_of_judge, self.tools.problems())

    def inspect(self, asked: Set[Fact]) -> None:
        super().inspect(asked)
        if self.tools is None:
            return
        try:
            self.tools.sandbox()
            self.tools.try_out()
        except InputError as error:
            raise InputError(list(map(_told_of_judge, error.problems))) from error

    @property
    def plan(self) -> Plan:
        blind = {name: ask for name, ask in self.notes.items() if name in self.blind}
        seeing = {name: ask for name, ask in self.notes.items() if name not in self.blind}
        return Plan(blind, seeing, self.rounds, self.note_tokens, self.labels)

    @property
    def labels(self) -> Sequence[str]:
        if self.scale is None:
            return LABELS
        return [str(digit) for digit in range(1, self.scale + 1)]

    @property
    def trivial(self) -> str:
        plan, shown = self.plan, ("2", "3")[: 1 if self.scale else 2]
        return plan.question("What is 1 + 1?", shown, (), plan.verdict, str)

    @property
    def writes(self) -> int:
        return self.note_tokens

    def judge_by(self, chooser: Author, model: str, clean: Clean) -> "Deliberation":
        instrument = self.tools.instrument() if self.tools else None
        return Deliberation(self, chooser, model, clean, instrument)


def _told_of_judge(line: str) -> str:
    return _TOOLS.sub("judge.tools", line)


class Deliberation:
    """`rlhf.stages.Judge`; the reason of a verdict is what was written about the answer."""

    def __init__(
        self,
        config: DeliberationConfig,
        author: Author,
        model: str,
        clean: Clean,
        instrument: Instrument | None,
    ) -> None:
        self.plan = config.plan
        self._votes = config.votes
        self._author = author
        self._clean = clean
        self._instrument = instrument
        asked = repr((self.plan, PREPARE, RULES, config.votes, config.tools))
        self.name = f"deliberation/{model}@{sha256(asked.encode()).hexdigest()[:8]}"

    def sitting(self, prompt: Prompt) -> Sitting:
        """One for every group."""
        request = transcript(prompt.messages)
        return Sitting(self._author, self.plan, request, self._clean, self._instrument)

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        """None, and why, where a note is missing or the model gives no label."""
        texts, places = unique([prompt.prefix + completion.text for completion in completions])
        sitting = self.sitting(prompt)
        if self.plan.rates:
            rated = await asyncio.gather(*(self._decided(sitting, (text,)) for text in texts))
            scores, traces = zip(*((_rating(found), told) for found, told in rated), strict=True)
            reasons = tuple(traces[i] for i in places)
            return Judgement(tuple(scores[i] for i in places), self.name, reasons=reasons)
        pairs = list(permutations(range(len(texts)), 2))
        asked = (self._decided(sitting, (texts[i], texts[j])) for i, j in pairs)
        decided = dict(zip(pairs, await asyncio.gather(*asked), strict=True))
        firsts = {pair: found[0] if found else None for pair, (found, _) in decided.items()}
        return compared(self.name, firsts, {k: told for k, (_, told) in decided.items()}, places)

    async def _decided(
        self, sitting: Sitting, shown: tuple[str, ...]
    ) -> tuple[tuple[float, ...] | None, str]:
        """How likely each label is, the mean of the votes, and what was written."""
        votes = (self._vote(sitting, shown, vote) for vote in range(self._votes))
        found, notes = zip(*await asyncio.gather(*votes), strict=True)
        told = cut("\n\n".join(notes), TRACE_CHARS)
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None, told
        return tuple(fsum(each) / len(known) for each in zip(*known, strict=True)), told

    async def _vote(
        self, sitting: Sitting, shown: tuple[str, ...], vote: int
    ) -> tuple[tuple[float, ...] | None, str]:
        try:
            notes: list[Note] = await sitting.notes(shown, vote)
        except Unwritten as missing:
            return None, f"no {missing} was written"
        found = await sitting.verdict(shown, notes)
        return found, trace(notes) if found else f"no verdict after {trace(notes)}"


def _rating(shares: Sequence[float] | None) -> float | None:
    """The mean of the digits, from 1."""
    return None if shares is None else fsum(d * share for d, share in enumerate(shares, 1))


def compared(
    name: str,
    firsts: dict[tuple[int, int], float | None],
    traces: dict[tuple[int, int], str],
    places: Sequence[int],
) -> Comparison:
    """Of how likely the first wins in either order of every two texts, a group's verdict; `places`:
    of each completion's text. A completion's reason is what was written where it stood first, and
    the text after it, or the first one, second."""
    size = len(set(places))
    win_prob, disagreement = both_orders(firsts, size)
    rows = tuple(tuple(win_prob[i][j] for j in places) for i in places)
    reasons = tuple(traces[i, (i + 1) % size] for i in places) if size > 1 else ()
    return Comparison(rows, name, disagreement, reasons=reasons)
