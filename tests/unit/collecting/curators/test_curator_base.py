"""What curators of members read of a round, and what they cannot be put beside."""

import re

import pytest

from rlhf.collecting.curators.agreement import AgreementConfig
from rlhf.collecting.curators.base import Curated, CuratorConfig, OfMembersConfig
from rlhf.collecting.curators.strength import StrengthConfig
from rlhf.records import Collected, Completion, Judgement, Preference, Prompt
from rlhf.storage.ledger import Page

PROMPT = Prompt("p", (), (1,))
FIRST, SECOND, LOGGED = (Completion("p", i, (i + 3,), (), str(i), False, 0) for i in range(3))
PAIR = Preference.over(PROMPT, SECOND, FIRST, 1.0, 0.0, "panel@1")


def collected(**parts: tuple[float | None, float | None]) -> Collected:
    judgement = Judgement((0.0, 1.0), "panel@1", parts)
    return Collected(PROMPT, (FIRST, SECOND), judgement, (PAIR,), ())


@pytest.mark.parametrize(
    ("members", "leads"), [([], [3.0, -0.5]), (["b"], [-0.5]), (["c", "a"], [3.0]), (["a.x"], [7])]
)
def test_leads_are_the_chosen_side_s_score_less_the_rejected_s(members, leads):
    parts = {"a": (1.0, 4.0), "a.x": (0.0, 7.0), "b": (0.5, 0.0), "c": (1.0, None)}
    one = collected(**parts, d=(float("nan"), 1.0))
    assert OfMembersConfig(members=members).leads(one, PAIR) == leads


def test_nobody_says_anything_of_a_side_that_was_not_judged():
    pair = Preference.over(PROMPT, SECOND, LOGGED, 1.0, 0.0, "panel@1")
    assert OfMembersConfig().leads(collected(a=(0.0, 1.0)), pair) == []
    unjudged = Collected(PROMPT, (FIRST, SECOND), None, (PAIR,), ())
    assert OfMembersConfig().leads(unjudged, PAIR) == []


@pytest.mark.parametrize("schema", [AgreementConfig, StrengthConfig])
@pytest.mark.parametrize(
    ("named", "members", "told"),
    [
        ([], (), "needs a judge that asks others"),
        (["tase"], ("taste", "maths"), "curator.members=tase: .* did you mean taste"),
        ([], ("of",), "one member, of, agrees with itself"),
        (["a"], ("a", "b"), "one member, a, agrees with itself"),
    ],
)
def test_members_have_to_be_the_judge_s_and_several(schema, named, members, told):
    problems = list(schema(members=named).problems_with(members))
    assert any(re.search(told, line) for line in problems)
    assert not list(schema().problems_with(("a", "b")))


async def test_no_curator_is_made_of_none_and_another_is_around_a_collector():
    class Collector:
        async def collect(self, round: int) -> list[Collected]:
            return [collected(a=(float(round), 0.0))]

    assert CuratorConfig().make(Page({}), 0) is None
    curator = AgreementConfig().make(Page({}), 0)
    (kept,) = await Curated(Collector(), curator).collect(-1)
    (dropped,) = await Curated(Collector(), curator).collect(1)
    assert (len(kept.preferences), len(dropped.preferences)) == (1, 0)
