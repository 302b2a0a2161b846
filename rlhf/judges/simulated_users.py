"""Simulated users as a judge: 1.0 for the reply that its user wishes for, else 0.0."""

from collections.abc import Sequence

from rlhf.config.judges import SimulatedUserJudgeConfig
from rlhf.judges.groups import Group
from rlhf.records import Judgement
from rlhf.toys.users import is_satisfied


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
