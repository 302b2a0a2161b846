"""A judge behind an endpoint that is away for a minute, and for another turns every question away.

The run waits, goes on, and ends with the bits and the preferences of one that was always answered.
"""

import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from chat_server import Server, said
from commands import SMALL, finish, start
from test_interrupted_run import until_round

from rlhf.chaos.comparing import differences
from rlhf.storage.store import read_metrics

pytestmark = [pytest.mark.faults, pytest.mark.thorough]
TROUBLE_S = 60.0
ROUNDS = 24
SETTINGS = [
    *SMALL,
    "algorithm=online_dpo",
    "algorithm.num_completions=4",
    "algorithm.truncated=keep",
    f"num_rounds={ROUNDS}",
    "judge=llm",
    "judge.model=tiny-judge",
]


class Judge(Server):
    """Always of the same opinion about the same question."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy, self.num_refused = False, 0
        self.answer = self._opinion

    def _opinion(self, question: str) -> tuple[int, Any]:
        if self.is_busy:
            self.num_refused += 1
            return 429, {"error": "too many questions"}
        first = (1 + zlib.crc32(question.encode()) % 99) / 100
        return said("A", ("A", first), ("B", 1 - first))


@pytest.fixture
def judge() -> Iterator[Judge]:
    one = Judge()
    yield one
    one.end()


def test_a_run_waits_for_its_judge_and_loses_nothing(judge, tmp_path):
    settings = [*SETTINGS, f"judge.endpoint={judge.url}"]
    unbroken, directory = tmp_path / "unbroken", tmp_path / "run"
    finish(start(unbroken, *settings))
    begun = start(directory, *settings)

    def rounds() -> int:
        return read_metrics(directory / "metrics.jsonl")[-1]["round"]

    until_round(directory, 3)
    judge.end()
    done = rounds()
    time.sleep(TROUBLE_S)
    assert rounds() <= done + 1  # whose answers were all judged
    judge.begin()
    until_round(directory, 10)
    judge.is_busy = True
    done = rounds()
    time.sleep(TROUBLE_S)
    assert rounds() <= done + 1
    assert judge.num_refused > 0
    judge.is_busy = False
    output = finish(begun)
    assert "cannot be reached" in output and "answers 429" in output
    assert differences(unbroken, directory) == {"weights": "", "metrics": "", "preferences": ""}
    found = read_metrics(directory / "metrics.jsonl")
    assert {one["judge/invalid_rate"] for one in found if "judge/invalid_rate" in one} == {0.0}
