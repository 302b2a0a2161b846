"""Judges that learn in the course of a run: each round is judged by what earlier ones have shown.

What is known stays the same within a round, and rounds are noted in the run's ledger, so that a run
that is resumed judges as one that was not.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from rlhf.judges.base import JudgeConfig
from rlhf.judges.members import everyone
from rlhf.records import Collected
from rlhf.stages import Collector, Tell, nobody
from rlhf.storage.ledger import Page

OWNER = "judges"
"""Of the ledger's page."""


def learners(judge: JudgeConfig) -> dict[str, JudgeConfig]:
    """Those that learn, of the judge and whoever it asks, by the names of their parts."""
    found = everyone("judge", "judge", judge)
    return {one.role.partition(".")[2]: one.config for one in found if one.config.learns}


@dataclass(frozen=True, slots=True)
class Learning:
    """`rlhf.stages.Collector`: what another one collects, judged by what is known by then."""

    collector: Collector
    judges: Mapping[str, JudgeConfig]
    page: Page
    max_staleness: int
    """Of so many rounds before one, nothing is used: they may not be over when it is collected."""

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        known_until = round - self.max_staleness
        over = [note for at, note in sorted(self.page.notes.items()) if at < known_until]
        with ExitStack() as known:
            for name, judge in self.judges.items():
                known.enter_context(judge.knowing([note[name] for note in over]))
            collected = await self.collector.collect(round, tell)
        verdicts = [one.judgement for one in collected if one.judgement is not None]
        self.page.note(
            round, {name: one.noted(name, verdicts) for name, one in self.judges.items()}
        )
        return collected
