"""One question for a group: shares into win probabilities, and orders that cancel."""

from collections.abc import Callable, Sequence

import pytest

from rlhf.judges.listwise import LETTERS, Listwise, ListwiseConfig
from rlhf.records import Completion, Message, Prompt

PROMPT = Prompt("p", (Message("user", "Say it."),), (1,))


class Fake:
    """Answers by a function of the answers as they stand."""

    def __init__(self, answer: Callable[[list[str]], Sequence[float] | None]) -> None:
        self.answer = answer
        self.orders: list[list[str]] = []

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        shown = [part.split("\n")[1] for part in question.split("=== Answer ")[1:]]
        assert len(labels) == len(shown)
        self.orders.append(shown)
        found = self.answer(shown)
        return None if found is None else tuple(found)


def judge(answer: Callable[[list[str]], Sequence[float] | None], orders: int = 2) -> Listwise:
    return Listwise(ListwiseConfig(orders=orders), Fake(answer), "m", str)


def completions(*texts: str) -> list[Completion]:
    return [Completion("p", i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]


async def test_shares_of_the_best_become_win_probabilities():
    best = {"x": 0.6, "y": 0.3, "z": 0.1}
    one = judge(lambda shown: [best[text] for text in shown])
    verdict = await one.judge(PROMPT, completions("x", "y", "z", "x"))
    assert verdict.win_prob[0] == pytest.approx((0.5, 2 / 3, 6 / 7, 0.5))
    assert verdict.win_prob[1] == pytest.approx((1 / 3, 0.5, 3 / 4, 1 / 3))
    assert verdict.order_disagreement == pytest.approx(0)
    assert one._chooser.orders == [["x", "y", "z"], ["y", "z", "x"]]


async def test_who_always_takes_the_first_prefers_nothing_where_each_stands_first_once():
    one = judge(lambda shown: [1.0] + [0.0] * (len(shown) - 1), orders=3)
    verdict = await one.judge(PROMPT, completions("x", "y", "z"))
    # Where neither of two is first, nothing is said of them.
    assert verdict.win_prob == ((0.5, 0.5, 0.5),) * 3
    assert verdict.order_disagreement == 1
    once = await judge(lambda shown: [1.0, 0.0, 0.0], orders=1).judge(PROMPT, completions(*"xyz"))
    assert once.win_prob == ((0.5, 1.0, 1.0), (0.0, 0.5, None), (0.0, None, 0.5))


def test_letters_without_their_probabilities_are_not_enough():
    config = ListwiseConfig(endpoint="http://judge:8000/v1", model="m", logprobs=False)
    (problem,) = config.problems()
    assert problem.startswith("judge.logprobs=false: judge=listwise reads how likely")


async def test_two_answers_are_asked_in_both_orders():
    table = {("x", "y"): (0.8, 0.2), ("y", "x"): (0.4, 0.6)}
    verdict = await judge(lambda shown: table[tuple(shown)]).judge(PROMPT, completions("x", "y"))
    assert verdict.win_prob[0] == pytest.approx((0.5, 0.7))
    assert verdict.order_disagreement == pytest.approx(0.2)


async def test_no_answer_is_no_tie():
    verdict = await judge(lambda shown: None if shown[0] == "y" else [0.5, 0.5]).judge(
        PROMPT, completions("x", "y", "x")
    )
    assert verdict.win_prob == ((0.5, None, 0.5), (None, 0.5, None), (0.5, None, 0.5))
    many = completions(*(str(i) for i in range(len(LETTERS) + 1)))
    verdict = await judge(lambda shown: pytest.fail("asked")).judge(PROMPT, many)
    assert all(verdict.failed) and "more than 16 different" in verdict.reasons[0]


async def test_one_text_is_a_tie_unasked():
    verdict = await judge(lambda shown: pytest.fail("asked")).judge(PROMPT, completions("x", "x"))
    assert verdict.win_prob == ((0.5, 0.5), (0.5, 0.5))
