"""Judges that argue with each other over rounds before a verdict."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import permutations
from math import fsum
from typing import ClassVar

from rlhf.config.texts import text
from rlhf.judges.base import JudgeConfig, Seat
from rlhf.judges.deliberation import TRACE_CHARS, Deliberation, compared
from rlhf.judges.members import member_problems, needs_of
from rlhf.judges.questions.deliberating import Note, Shown, Sitting, Unwritten, trace
from rlhf.models.batching import unique
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Comparison, Completion, Prompt
from rlhf.stages import Judge
from rlhf.tools.tool import cut

DISCUSS = (
    "You are {name}, one of {count} judges who discuss which answer is better. Say what you think "
    "of both, and reply to what the others have said; change your mind where they are right."
)
SPEAK_FOR = (
    "You are {name}, and speak for Answer {side}, whatever you think of it yourself. Make the "
    "strongest case for it that is true, and reply to what was said for the other."
)


@dataclass
class DebateConfig(JudgeConfig):
    """Every two answers are argued about in both orders, by members that are `deliberation`; each
    hears all that was said before it.

    With `listener` the others speak for answer A, for B, for A and so on, and it alone decides;
    without, all say what they think, and the verdict is their mean (Khan et al. 2024, Debating with
    more persuasive LLMs, arXiv 2402.06782; Chan et al. 2023, ChatEval, arXiv 2308.07201).
    """

    name: ClassVar[str] = "debate"

    members: dict[str, JudgeConfig] = field(default_factory=dict)
    """`+judge@judge.members.NAME=deliberation`; notes of their own come before the debate, and stay
    with them."""
    rounds: int = number(2, at_least=1)
    """How often each speaks."""
    listener: str | None = text()
    """The member that does not speak, and decides."""

    def asks(self) -> Mapping[str, JudgeConfig]:
        return self.members

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def needs(self) -> Mapping[Fact, str]:
        return needs_of(self.members)

    def problems(self) -> Iterator[str]:
        problems = list(member_problems(self.members))
        yield from problems
        if self.listener is not None and self.listener not in self.members:
            there = ", ".join(self.members) or "none"
            yield f"judge.listener={self.listener}: there is no such member; there is {there}"
        elif len(self.members) - (self.listener is not None) < 2:
            yield (
                "judge.members: a debate needs two who speak; add "
                "+judge@judge.members.NAME=deliberation"
            )
        yield from (
            f"+judge@judge.members.{name}={member.name}: does not argue; take deliberation, "
            "without scale and votes"
            for name, member in self.members.items()
            if not problems and Fact.arguments not in member.gives()
        )
        if self.num_workers != 1:
            yield (
                f"judge.num_workers={self.num_workers}: a debate has no workers of its own; set "
                "those of its members"
            )

    def over(self, members: Mapping[str, Judge]) -> "Debate":
        found = {name: one for name, one in members.items() if isinstance(one, Deliberation)}
        assert len(found) == len(members), "those that argue are deliberations"
        return Debate(found, self.rounds, self.listener)


class Debate:
    """`rlhf.stages.Judge` over judges that argue; the reason of a verdict is what was said."""

    def __init__(
        self, members: Mapping[str, Deliberation], rounds: int, listener: str | None
    ) -> None:
        self._members = members
        self._rounds = rounds
        self._speakers = [name for name in members if name != listener]
        self._deciding = [listener] if listener else self._speakers
        self._asks = {name: self._ask(name, listener is not None) for name in self._speakers}
        told = ", ".join(f"{name}={one.name}" for name, one in members.items())
        version = sha256(repr((rounds, listener, self._asks)).encode()).hexdigest()[:8]
        self.name = f"debate({told})@{version}"

    def _ask(self, name: str, for_sides: bool) -> str:
        place = self._speakers.index(name)
        form = SPEAK_FOR if for_sides else DISCUSS
        return form.format(name=name, side="AB"[place % 2], count=len(self._speakers))

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Comparison:
        """None for a pair, and why, where a member wrote nothing or gave no letter."""
        texts, places = unique([prompt.prefix + completion.text for completion in completions])
        sittings = {name: one.sitting(prompt) for name, one in self._members.items()}
        pairs = list(permutations(range(len(texts)), 2))
        asked = (self._decided(sittings, (texts[i], texts[j])) for i, j in pairs)
        decided = dict(zip(pairs, await asyncio.gather(*asked), strict=True))
        firsts = {pair: found for pair, (found, _) in decided.items()}
        return compared(self.name, firsts, {k: told for k, (_, told) in decided.items()}, places)

    async def _decided(
        self, sittings: Mapping[str, Sitting], shown: Shown
    ) -> tuple[float | None, str]:
        """How likely the first is the better one, and what was said."""
        said: list[Note] = []
        try:
            listed = await asyncio.gather(*(one.notes(shown) for one in sittings.values()))
            own = dict(zip(sittings, listed, strict=True))
            for number in range(1, self._rounds + 1):
                for name in self._speakers:
                    before = [*own[name], *said]
                    told = f"{name}, round {number}"
                    said.append(await sittings[name].note(told, self._asks[name], shown, before))
        except Unwritten as missing:
            return None, f"nothing was said by {missing}"
        votes = (sittings[name].verdict(shown, [*own[name], *said]) for name in self._deciding)
        shares = await asyncio.gather(*votes)
        known = [one[0] for one in shares if one is not None]
        told = cut(trace(said), TRACE_CHARS)
        if len(known) < len(shares):
            return None, f"no verdict after {told}"
        return fsum(known) / len(known), told
