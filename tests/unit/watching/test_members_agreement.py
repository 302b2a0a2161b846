"""Cohen's kappa, by hand, and of members of a panel by their parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.records import Collected, Judgement, Message, Prompt
from rlhf.watching.agreement import agreement, kappa
from rlhf.watching.metrics import collection_metrics

COUNTS = st.integers(0, 50)


def test_kappa_by_hand():
    """35 of 50 agree; by chance half would, of margins 25, 25 and 30, 20."""
    assert kappa(((20, 5), (10, 15))) == pytest.approx(0.4)
    assert kappa(((30, 0), (0, 20))) == pytest.approx(1)
    assert kappa(((0, 25), (25, 0))) == pytest.approx(-1)
    assert kappa(((0, 0), (0, 0))) is None and kappa(((9, 0), (0, 0))) is None


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_neither_judge_nor_order_of_answers_matters(a: int, b: int, c: int, d: int):
    found = kappa(((a, b), (c, d)))
    for other in (kappa(((a, c), (b, d))), kappa(((d, c), (b, a)))):
        assert other == (None if found is None else pytest.approx(found))


def verdict(**parts: tuple[float | None, ...]) -> Judgement:
    size = len(next(iter(parts.values())))
    failures = {name: (False,) * size for name in parts if name != "own"}
    return Judgement((0.0,) * size, "panel@1", parts, (), failures, num_written_tokens=5)


def test_members_vote_for_one_of_every_two_and_who_sees_no_difference_does_not():
    # a: 1 > 0, 2 > 0, 2 > 1; b: 1 > 0, 0 > 2, 1 > 2: both later once, apart twice.
    one = verdict(a=(1.0, 2.0, 3.0), b=(2.0, 3.0, 1.0), own=(3.0, 2.0, 1.0))
    assert agreement([one]) == pytest.approx(0)
    even = verdict(a=(1.0, 2.0), b=(1.0, 1.0))
    assert agreement([one, even]) == agreement([one])
    assert agreement([verdict(a=(1.0, None), b=(1.0, 2.0))]) is None
    assert agreement([verdict(a=(1.0, 2.0))]) is None
    same = [verdict(a=(1.0, 2.0), b=(5.0, 7.0)), verdict(a=(2.0, 1.0), b=(7.0, 5.0))]
    assert agreement(same) == pytest.approx(1)


def test_a_round_tells_it_and_what_the_policy_wrote_to_be_judged_by():
    prompt = Prompt("p", (Message("user", "?"),), (1,))
    both = [verdict(a=one, b=one) for one in ((1.0, 2.0), (2.0, 1.0))]
    round = [Collected(prompt, (), one, (), ()) for one in both]
    found = collection_metrics(round, 0)
    assert (found["judge/kappa"], found["judge/written_tokens"]) == (pytest.approx(1), 10)
    alone = collection_metrics([Collected(prompt, (), Judgement((), "j@1"), (), ())], 0)
    assert not {"judge/kappa", "judge/written_tokens"} & alone.keys()
