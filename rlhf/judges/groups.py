"""What a judge is handed at once, and what it is to do with it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rlhf.records import Completion, Prompt, Verdict


class Group(NamedTuple):
    """The completions of one prompt that are judged together."""

    prompt: Prompt
    completions: tuple[Completion, ...]


class GroupJudge(Protocol):
    """Judges groups, called by one worker for whatever became ready together."""

    def judge(self, groups: Sequence[Group]) -> Sequence[Verdict]:
        """One per group, in order; None in place of a number where the judge itself failed."""
        ...
