"""The filter by agreement, of pairs and members given by hand."""

import pytest

from rlhf.collecting.curators.agreement import AgreementConfig
from rlhf.collecting.curators.base import Curator
from rlhf.records import Collected, Completion, DropReason, Judgement, Preference, Prompt
from rlhf.storage.ledger import Page

PROMPT = Prompt("p", (), (1,))
GROUP = tuple(Completion("p", i, (i + 3,), (), str(i), False, 0) for i in range(3))


def curator(**keys) -> Curator:
    return AgreementConfig(**keys).make(Page({}), 0)


def collected(*pairs: tuple[int, int], **parts: tuple[float | None, ...]) -> Collected:
    """Of three completions, the pairs of those at these places; weights make 1 together."""
    preferences = tuple(
        Preference.over(PROMPT, GROUP[a], GROUP[b], 1.0, 0.0, "j@1", weight=1 / len(pairs))
        for a, b in pairs
    )
    return Collected(PROMPT, GROUP, Judgement((1.0, 0.5, 0.0), "j@1", parts), preferences, ())


MEMBERS = {"a": (3.0, 2.0, 1.0), "b": (9.0, 0.0, 5.0), "c": (1.0, 1.0, 0.0)}
"""0 over 1: two agree and one sees no difference, 5/6. 1 over 2: 2/3. 0 over 2: all."""


@pytest.mark.parametrize(
    ("least", "kept"), [(0.6, [0, 1, 2]), (0.7, [0, 2]), (0.9, [2]), (5 / 6, [0, 2]), (1.0, [2])]
)
def test_pairs_that_too_few_agree_on_are_dropped(least, kept):
    pairs = ((0, 1), (1, 2), (0, 2))
    (found,) = curator(min_share=least).curate(0, [collected(*pairs, **MEMBERS)])
    texts = [(pair.chosen.text, pair.rejected.text) for pair in found.preferences]
    assert texts == [tuple(str(i) for i in pairs[k]) for k in kept]
    assert sum(pair.weight for pair in found.preferences) == pytest.approx(1)
    assert [one.reason for one in found.dropped] == [DropReason.DISPUTED] * (3 - len(kept))
    assert all(one.chosen and one.rejected for one in found.dropped)


def test_a_prompt_without_a_pair_left_keeps_what_it_had_dropped_before():
    (found,) = curator().curate(0, [collected((2, 0), **MEMBERS)])
    assert found.preferences == () and len(found.dropped) == 1
    (dropped,) = found.dropped
    assert (dropped.chosen, dropped.rejected) == (GROUP[2], GROUP[0])


def test_who_fails_has_no_vote_and_nobody_at_all_is_a_failed_judge():
    half = collected((0, 1), a=(2.0, 1.0, 0.0), b=(None, 5.0, 0.0))
    none = collected((0, 1), a=(None, 1.0, 0.0), b=(None, 5.0, 0.0))
    kept, lost = curator(min_share=1.0).curate(0, [half, none])
    assert kept is half
    assert [one.reason for one in lost.dropped] == [DropReason.JUDGE_FAILED]


def test_named_members_alone_have_a_vote():
    disputed = collected((1, 2), **MEMBERS)
    assert curator(members=["a", "c"]).curate(0, [disputed]) == [disputed]
