"""Ratings as means over digits, aspects as parts, and what happens where the model gives none."""

from collections.abc import Sequence

import pytest

from rlhf.judges.panel import PanelConfig
from rlhf.judges.rubric import Rubric, RubricConfig
from rlhf.records import Completion, Message, Prompt

PROMPT = Prompt("p", (Message("user", "Say it."),), (1,))


class Digits:
    """Answers by the aspect and the answer that stand in the question."""

    def __init__(self, shares: dict[tuple[str, str], Sequence[float] | None]) -> None:
        self.shares = shares
        self.asked: list[str] = []

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        self.asked.append(question)
        (found,) = [
            shares
            for (aspect, text), shares in self.shares.items()
            if aspect in question and f"=== Answer ===\n{text}\n" in question
        ]
        return None if found is None else tuple(found)


def certain(digit: int) -> list[float]:
    return [float(digit == one) for one in range(1, 6)]


def completions(*texts: str) -> list[Completion]:
    return [Completion("p", i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]


async def test_a_rating_is_the_mean_of_the_digits():
    chooser = Digits({("", "x"): (0.1, 0.2, 0.4, 0.2, 0.1), ("", "y"): certain(4)})
    one = Rubric(RubricConfig(), chooser, "m", str)
    verdict = await one.judge(PROMPT, completions("x", "y", "x"))
    assert verdict.scores == pytest.approx((3.0, 4.0, 3.0))
    assert verdict.parts == {"quality": verdict.scores}
    assert verdict.judge.startswith("rubric/m@")


async def test_aspects_are_parts_and_their_weighted_mean_the_score():
    rated = {"Q1": 4, "Q2": 3, "Q3": 5, "Q4": 4}
    aspects = {name.lower(): name for name in rated}
    chooser = Digits({(name, "x"): certain(digit) for name, digit in rated.items()})
    verdict = await Rubric(RubricConfig(aspects=aspects), chooser, "m", str).judge(
        PROMPT, completions("x")
    )
    assert verdict.scores == (4.0,)
    assert verdict.parts == {"q1": (4.0,), "q2": (3.0,), "q3": (5.0,), "q4": (4.0,)}
    config = RubricConfig(aspects=aspects, weights={"q1": 0, "q3": 2})
    verdict = await Rubric(config, chooser, "m", str).judge(PROMPT, completions("x"))
    assert verdict.scores == pytest.approx(((3 + 2 * 5 + 4) / 4,))


async def test_a_panel_of_one_aspect_is_that_rubric():
    config = RubricConfig(path="m", aspects={"style": "Q1"})
    shares = (0.1, 0.2, 0.4, 0.1, 0.2)
    alone = Rubric(config, Digits({("Q1", "x"): shares, ("Q1", "y"): certain(4)}), "m", str)
    both = PanelConfig(members={"style": config}).over({"style": alone})
    group = completions("x", "y")
    found, own = await both.judge(PROMPT, group), await alone.judge(PROMPT, group)
    assert found.scores == own.scores == found.parts["style"]


async def test_an_aspect_without_a_rating_is_missing_and_the_score_with_it():
    config = RubricConfig(aspects={"a": "Q1", "b": "Q2"})
    chooser = Digits({("Q1", "x"): certain(2), ("Q2", "x"): None})
    verdict = await Rubric(config, chooser, "m", str).judge(PROMPT, completions("x"))
    assert verdict.scores == (None,) and verdict.failed == (True,)
    assert verdict.parts == {"a": (2.0,), "b": (None,)}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"weights": {"wit": 1}}, "judge.weights=wit: is none of judge.aspects; there are quality"),
        ({"weights": {"quality": -1}}, "judge.weights.quality=-1: must be a number"),
        ({"weights": {"quality": 0}}, "judge.weights: all of judge.aspects weigh 0"),
        ({"aspects": {"wit": " "}}, "judge.aspects.wit: is empty"),
        ({"endpoint": None}, "judge.path, judge.endpoint: one is required"),
    ],
)
def test_what_cannot_be_is_told(keys, told):
    where = {"endpoint": "http://judge:8000/v1", "model": "m"}
    problems = list(RubricConfig(**(where | keys)).problems())
    assert any(problem.startswith(told) for problem in problems), problems
