"""What every curator says of itself, and what it may leave as it is here; alone it is none."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from typing import ClassVar, Protocol

from rlhf.options import Fact, Option
from rlhf.records import Collected, Completion, Preference, Said, said_of
from rlhf.stages import Collector, Tell, nobody
from rlhf.storage.ledger import Page


class Curator(Protocol):
    def curate(self, round: int, collected: Sequence[Collected]) -> list[Collected]:
        """A whole round's, in its order, with other pairs or others of them dropped."""
        ...


@dataclass(frozen=True, slots=True)
class Curated:
    """`rlhf.stages.Collector`: what another one collects, curated."""

    collector: Collector
    curator: Curator

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        return self.curator.curate(round, await self.collector.collect(round))


@dataclass
class CuratorConfig(Option):
    """No curator: every pair is trained on, as the algorithm made it."""

    name: ClassVar[str] = "none"

    @property
    def soft_labels(self) -> tuple[str, str] | None:
        """What makes a chosen side better with a probability alone, and what to set instead."""
        return None

    def problems_with(self, members: Collection[str]) -> Iterator[str]:
        """What cannot be, of its keys beside a judge that asks these others."""
        return iter(())

    def make(self, page: Page, max_staleness: int) -> Curator | None:
        """One for a whole run, or None. `page` is its own of the run's ledger; the notes of so many
        rounds before one may not be there yet when it is curated, and are not to be looked at."""
        return None


@dataclass
class OfMembersConfig(CuratorConfig):
    """By what several judges, such as those of a panel, think of both sides."""

    members: list[str] = field(default_factory=list)
    """Whose scores count, all on one scale; every member of the judge if none is named. A member of
    weight 0 may be among them: it has no say in which side is chosen."""

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.parts: f"curator={self.name}: needs what several judges said of either side, "
            "which this algorithm does not hand on; set algorithm=online_dpo, or curator=none"
        }

    def problems_with(self, members: Collection[str]) -> Iterator[str]:
        if not members:
            yield (
                f"curator={self.name}: needs a judge that asks others; set judge=panel or "
                "judge=ensemble, with their members, or curator=none"
            )
            return
        for name in self.members:
            if name not in members:
                near = get_close_matches(name, members, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                yield (
                    f"curator.members={name}: there is no such member of the judge; {hint}there "
                    f"is {', '.join(members)}"
                )
        counting = self.members or members
        if len(set(counting)) < 2:
            yield (
                f"curator.members: one member, {', '.join(counting)}, agrees with itself; "
                "name two or more"
            )

    def leads(self, one: Collected, pair: Preference) -> list[float]:
        """By how much each member that said something of both sides puts the chosen one ahead."""
        chosen_parts, rejected_parts = (_parts(one, side.completion) for side in pair.sides)
        named = [name for name in chosen_parts if self._counts(name)]
        sides = [(chosen_parts[name], rejected_parts.get(name)) for name in named]
        return [
            chosen - rejected
            for chosen, rejected in sides
            if chosen is not None
            and rejected is not None
            and isfinite(chosen)
            and isfinite(rejected)
        ]

    def _counts(self, part: str) -> bool:
        """Parts of members' own verdicts have dots in their names."""
        return part in self.members if self.members else "." not in part


def _parts(one: Collected, completion: Completion) -> Mapping[str, float | None]:
    if one.judgement is not None and completion in one.completions:
        return said_of(one.judgement, one.completions.index(completion)).parts
    return one.said.get(completion, Said()).parts
