"""Simulated users as a judge: 1.0 for the reply that its user wishes for, else 0.0."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.judges.base import JudgeConfig, Measure
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.records import Judgement
from rlhf.toys.users import is_satisfied


@dataclass
class SimulatedUserJudgeConfig(JudgeConfig):
    """The simulated users of `data=simulated_users` say whether they are satisfied."""

    name: ClassVar[str] = "simulated_users"

    @property
    def measure(self) -> Measure:
        return Measure.satisfaction

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.outcomes}

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.simulated_wishes: "judge=simulated_users: knows the wishes of "
            "data=simulated_users only"
        }

    def build(self) -> "SimulatedUsers":
        return SimulatedUsers(self)


class SimulatedUsers:
    """Reads the hidden wish in the prompt's answer; None for a prompt that has none."""

    def __init__(self, config: SimulatedUserJudgeConfig) -> None:
        self._name = "simulated_users@1"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [Judgement(tuple(self._scores(group)), self._name) for group in groups]

    def _scores(self, group: Group) -> list[float | None]:
        wanted = group.prompt.answer
        if wanted is None:
            return [None] * len(group.completions)
        return [float(is_satisfied(wanted, c.text)) for c in group.completions]
