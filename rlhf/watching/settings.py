"""How often a run is evaluated, on what, and by whom."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rlhf.judges.base import JudgeConfig
from rlhf.judges.members import as_told_at
from rlhf.options import Fact, Option
from rlhf.ranges import number

GOLD = "eval.gold"


@dataclass
class EvalConfig(Option):
    every: int = number(0, at_least=0)
    """Rounds between evaluations, besides those before and after training."""
    num_prompts: int = number(512, at_least=1)
    """Held-out prompts that are asked."""
    num_samples: int = number(1, at_least=1)
    """Sampled completions per prompt, besides the greedy one."""
    temperature: float | None = number(None, above=0)
    """Of sampled completions; by default that of the algorithm."""
    gold: JudgeConfig | None = None
    """`+judge@eval.gold=reward_model`: another judge of held-out answers, that nothing is trained
    on, whose numbers are `eval/gold_*`. Where they fall as the judge's rise, the judge is gamed."""

    def needs(self) -> Mapping[Fact, str]:
        if self.gold is None:
            return {}
        return {fact: as_told_at(GOLD, line) for fact, line in self.gold.needs().items()}

    def problems(self) -> Iterator[str]:
        if self.gold is None:
            return
        if Fact.verdicts not in self.gold.gives():
            yield f"+judge@{GOLD}={self.gold.name}: judges nothing; remove it"
        yield from (as_told_at(GOLD, line) for line in self.gold.problems())
