"""The judge `text`, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.judges.groups import Group
from rlhf.judges.text import TextJudgeConfig, TextScore, variety
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
