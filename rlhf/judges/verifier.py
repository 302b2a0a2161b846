"""A verifier: 1.0 if a completion gives the prompt's answer, 0.0 if not, None if we cannot tell."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.data.rows import shown
from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import Group
from rlhf.judges.mathematics.process import MathProcess
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Judgement, Prompt

_INTEGER = re.compile(r"([+-]?)([0-9]+)")


class Check(Enum):
    integer = "integer"
    """The completion is the answer: one integer, nothing else."""
    last_line = "last_line"
    """The completion's last line is the answer: one integer, nothing else."""
    math = "math"
    """The completion's final answer is mathematically equal to the reference (`math-verify`)."""


@dataclass
class VerifierConfig(JudgeConfig):
    name: ClassVar[str] = "verifier"

    check: Check = Check.integer

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.outcomes}

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.answers: "judge=verifier: compares with solutions, and this data has none; choose "
            "another, such as judge=game for a game, or for logs judge=none, or judge=llm "
            "judge.user_guided=true to measure by what users said"
        }

    def inspect_prompts(self, prompts: Iterable[Prompt]) -> None:
        if self.check is Check.math:
            return
        every = list(prompts)
        unread = [one for one in every if one.answer is None or _integer(one.answer) is None]
        if len(unread) > self.max_failure_rate * len(every):
            first = unread[0]
            raise InputError(
                [
                    f"judge.check={self.check.value}: of {len(every)} prompts {len(unread)} have "
                    f"an answer that is no integer, such as {shown(first.answer)} of {first.id}, "
                    "and no verdict can be given on them; set judge.check=math, which reads other "
                    "answers too, or leave those prompts out"
                ]
            )

    def build(self) -> "Verifier":
        return Verifier(self)


class Verifier:
    """Scores completions by comparing them with the prompt's answer."""

    def __init__(self, config: VerifierConfig) -> None:
        self._check = config.check
        self._name = f"verifier/{config.check.value}@{2 if config.check is Check.math else 1}"
        self._math = MathProcess() if config.check is Check.math else None

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Scores are 1.0, 0.0, or None where the prompt's answer is absent or not readable."""
        return [self._judgement(group) for group in groups]

    def _judgement(self, group: Group) -> Judgement:
        answer = group.prompt.answer
        scores = tuple(self._score(answer, one.text) for one in group.completions)
        if None not in scores:
            return Judgement(scores, self._name)
        why = f"cannot be compared with the answer {shown(answer)}"
        reasons = tuple(why if score is None else "" for score in scores)
        return Judgement(scores, self._name, reasons=reasons)

    def _score(self, answer: str | None, text: str) -> float | None:
        if answer is None:
            return None
        if self._math:
            return self._math.score(answer, text)
        if self._check is Check.last_line:
            text = text.rpartition("\n")[2]
        return integer_score(answer, text)

    def close(self) -> None:
        """Ends the child process, if there is one."""
        if self._math:
            self._math.close()


def integer_score(answer: str, text: str) -> float | None:
    """1.0 if the text, stripped, is one integer equal to the answer; None if the answer is none.

    Compared by value, in ASCII digits: `007` and `+7` are 7, `-0` is 0; `٧`, `7.0`, `1,000` and
    `7 apples` are no integers.
    """
    expected, given = _integer(answer), _integer(text)
    return None if expected is None else float(given == expected)


def _integer(text: str) -> str | None:
    # As digits, not as an int: Python refuses to convert more than 4,300 of them.
    match = _INTEGER.fullmatch(text.strip())
    if match is None:
        return None
    sign, digits = match[1], match[2].lstrip("0") or "0"
    return digits if sign != "-" or digits == "0" else f"-{digits}"
