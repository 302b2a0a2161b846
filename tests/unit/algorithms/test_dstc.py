"""DSTC's pairs of programs and tests, with the real judge in the real sandbox."""

import pytest

from rlhf.algorithms.base import Services
from rlhf.algorithms.dstc import DSTCConfig
from rlhf.collecting.truncated import Truncated
from rlhf.judges.code import CodeJudge, CodeJudgeConfig
from rlhf.judges.programs.calls import own_asserts, source
from rlhf.judges.programs.ranking import Score
from rlhf.records import LOGGED, Asked, Completion, DropReason, Message, Prompt, Sampling
from rlhf.storage.store import preference_rows

END = 0
ROW = {"test_list": ["assert f(1) == 2", "assert f(-1) == 0"]}
# What they pass: both tests, the first alone, none.
PROGRAMS = ("def f(x): return x + 1", "def f(x): return abs(x) + 1", "def f(x): return 7")


def ids(text: str) -> tuple[int, ...]:
    """A token per character, and what ends a turn."""
    return (*map(ord, text), END)


def drawn(sample: int, text: str, truncated: bool) -> Completion:
    tokens = ids(text)[:-1] if truncated else ids(text)
    return Completion("1", sample, tokens, (-0.5,) * len(tokens), text, truncated, 3)


async def collected(*programs: str, row=ROW, cut=(), **settings):
    class Rollout:
        async def generate(self, prompt, sampling, seed):
            return tuple(drawn(i, text, i in cut) for i, text in enumerate(programs))

    prompt = Prompt("1", (Message("user", "?"),), (1, 2), row=row)
    judge = CodeJudge(CodeJudgeConfig(score=Score.dstc, timeout_s=20))
    offered = Services(Rollout(), judge, Sampling(3, 9), {}, False, None, lambda see: None, ids)  # type: ignore
    return await DSTCConfig(**settings).make(offered).collect(Asked(prompt, 7))


async def test_the_best_program_with_a_test_it_passes_over_the_worst_with_one_it_fails():
    """[[1, 1], [1, 0], [0, 0]]: of either the test that most programs pass, which is the first."""
    found = await collected(*PROGRAMS[::-1])
    (pair,) = found.preferences
    assert pair.chosen.text == "def f(x): return x + 1\nassert f(1) == 2\n"
    assert pair.rejected.text == "def f(x): return 7\nassert f(1) == 2\n"
    assert (pair.chosen.score, pair.rejected.score, pair.weight) == (1, 0, 1)
    # The program's tokens as they were drawn, the test's behind them, and one end.
    for side in pair.sides:
        assert side.tokens.completion == ids(side.text)
        assert side.completion.policy_version == LOGGED and side.completion.logprobs == ()
    # What the judge said of a program stands with it, whatever stands behind it.
    (row,) = preference_rows(0, found)
    told = row["chosen_parts"], row["rejected_parts"], row["rejected_reason"]
    assert told == ('{"tests_passed": 1.0}', '{"tests_passed": 0.0}', "test 1: gave 7, not 2")
    assert [one.text for one in found.completions] == list(PROGRAMS[::-1])
    assert found.judgement.scores == (0, 0.5, 1) and not found.dropped


@pytest.mark.parametrize(
    ("programs", "row", "reason"),
    [
        (PROGRAMS[:1] * 2, ROW, DropReason.TIE),
        (("x = (", "y"), ROW, DropReason.TIE),
        (PROGRAMS, {"test_list": None}, DropReason.JUDGE_FAILED),
        # Tests that are code stand nowhere as a line of their own.
        (PROGRAMS, {"test_list": ["assert abs(f(-1)) == 0"]}, DropReason.TIE),
    ],
)
async def test_where_there_is_no_pair(programs, row, reason):
    found = await collected(*programs, row=row)
    assert found.preferences == () and [one.reason for one in found.dropped] == [reason]


async def test_a_program_that_was_cut_off_is_dropped_or_kept_as_it_is():
    found = await collected(*PROGRAMS, cut={2})
    (dropped,) = found.dropped
    assert (dropped.reason, dropped.rejected.text) == (DropReason.TRUNCATED, PROGRAMS[2])
    kept = await collected(*PROGRAMS, cut={2}, truncated=Truncated.keep)
    (pair,) = kept.preferences
    assert pair.rejected.tokens.completion == ids(f"{PROGRAMS[2]}\nassert f(1) == 2\n")


def test_a_test_is_spelled_as_it_was_read():
    lines = [
        "assert f(1, [2, (3,)], b='x') == {'a': None}",
        "assert f() is True",
        "assert not f(-1.5)",
        "assert f({1})",
    ]
    assert [source(call) for call in own_asserts("\n".join(lines))] == lines
