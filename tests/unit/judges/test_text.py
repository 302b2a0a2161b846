"""The judge `text`, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.judges.groups import Group
from rlhf.judges.text import TextJudgeConfig, TextScore, variety
from rlhf.options import Fact
from rlhf.records import Completion, Prompt

LINE = tuple(range(120))


def scores(*texts: tuple[int, ...], **settings) -> tuple[float, ...]:
    prompt = Prompt("1", (), (1,))
    sides = tuple(Completion("1", i, t, (0.0,) * len(t), "", False, 0) for i, t in enumerate(texts))
    (judgement,) = TextJudgeConfig(**settings).build().judge([Group(prompt, sides)])
    return judgement.scores


def test_length_is_in_hundreds_and_variety_a_share_of_triples():
    # Of a b a b a b: aba bab aba bab, so 2 of 4.
    assert scores((1, 2) * 3, (1, 2, 3), (), score=TextScore.variety) == (0.5, 1.0, 1.0)
    assert scores(LINE, (), score=TextScore.length) == (1.2, 0.0)
    assert scores(LINE, (1, 2) * 3) == pytest.approx((1.2, 0.03))
    assert scores(LINE, sign=-1.0) == (-1.2,)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=12), st.integers(2, 6))
def test_a_text_in_circles_has_less_variety(text: list[int], times: int):
    assert variety(text * (times + 1)) <= variety(text * times) <= 1
    assert variety(text * 20) < 0.35


def matched(*texts: str, prefix: str = "", **settings) -> tuple[float, ...]:
    prompt = Prompt("1", (), (1,), prefix=prefix)
    sides = tuple(Completion("1", i, (i,), (0.0,), t, False, 0) for i, t in enumerate(texts))
    config = TextJudgeConfig(score=TextScore.pattern, **settings)
    assert list(config.problems()) == []
    (judgement,) = config.build().judge([Group(prompt, sides)])
    return judgement.scores


def test_a_pattern_is_met_or_not():
    pattern = r"^#### [0-9]+$"
    answers = ("so\n#### 12\n", "#### twelve", "I say #### 12", "")
    assert matched(*answers, pattern=pattern) == (1, 0, 0, 0)
    assert matched(*answers, pattern=pattern, sign=-0.5) == (-0.5, 0, 0, 0)
    # An answer that has begun is whole with its beginning.
    assert matched("12", "x", prefix="#### ", pattern=pattern) == (1, 0)
    assert Fact.outcomes in TextJudgeConfig(score=TextScore.pattern, pattern="a").gives()
    assert Fact.outcomes not in TextJudgeConfig(score=TextScore.length).gives()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score": TextScore.pattern}, "judge.pattern: is required with judge.score=pattern"),
        ({"pattern": "a"}, "judge.pattern=a: is read with judge.score=pattern only"),
        ({"score": TextScore.pattern, "pattern": "("}, "judge.pattern=(: is no regular expression"),
    ],
)
def test_what_cannot_be_is_told(settings, told):
    (problem,) = TextJudgeConfig(**settings).problems()
    assert problem.startswith(told)
