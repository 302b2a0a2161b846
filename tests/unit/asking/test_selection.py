"""Which prompts are hardest: by hand, and what holds of every choice."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.asking.selection import HardestSchedule, hardest, num_candidates, proportional
from rlhf.collecting.collector import OneRound
from rlhf.records import Message, Prompt, Tokens

SCORES = st.sampled_from([0.0, 0.5, 0.5 + 2**-52, 1.0, 3.0])
ROWS = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("num", "share", "candidates"),
    [
        (64, 1.0, 64),
        (64, 0.5, 128),
        (64, 0.3, 214),
        (64, 0.1, 640),
        (21, 0.7, 30),  # in floats 30.000000000000004
        (1, 0.999, 2),
        (3, 1e-5, 300_000),
    ],
)
def test_so_many_candidates_that_the_share_is_asked(num, share, candidates):
    assert num_candidates(num, share) == candidates


@pytest.mark.parametrize(
    ("sizes", "num", "parts"),
    [
        ([6, 4], 5, [3, 2]),
        ([7, 3], 5, [4, 1]),  # 3.5 and 1.5: of equal remainders the first
        ([3, 7], 5, [2, 3]),
        ([2, 5], 3, [1, 2]),  # .857 and 2.143
        ([1, 99], 10, [0, 10]),
        ([10], 4, [4]),
        ([2, 3], 5, [2, 3]),
        ([1, 1, 1], 2, [1, 1, 0]),
    ],
)
def test_groups_have_parts_by_their_sizes(sizes, num, parts):
    assert proportional(sizes, num) == parts


@pytest.mark.parametrize(
    ("nlls", "calls", "num", "chosen"),
    [
        ([1.0, 3.0, 2.0, 4.0], "....", 2, [1, 3]),
        ([1.0, 1.0, 2.0, 1.0], "....", 2, [0, 2]),
        ([0.0, 0.0, 0.0, 0.0], "....", 3, [0, 1, 2]),
        # Those that call are all easier, and have their half all the same.
        ([9.0, 0.1, 8.0, 0.3, 7.0, 0.2], ".c.c.c", 2, [0, 3]),
        # Four of six call: 2.67 and 1.33 of four.
        ([5.0, 1.0, 2.0, 6.0, 3.0, 4.0], ".ccc.c", 4, [0, 2, 3, 5]),
        ([2.0, 1.0], ".c", 2, [0, 1]),
    ],
)
def test_the_hardest_of_each_group_in_the_schedule_s_order(nlls, calls, num, chosen):
    assert hardest(nlls, calls, num) == chosen


@given(ROWS, st.data())
def test_every_choice_is_of_the_right_number_and_the_hardest_of_its_group(rows, data):
    num = data.draw(st.integers(1, len(rows)))
    nlls, groups = [row[0] for row in rows], [row[1] for row in rows]
    chosen = hardest(nlls, groups, num)
    assert len(chosen) == num and chosen == sorted(set(chosen))
    found = Counter(groups[i] for i in chosen)
    for group, size in Counter(groups).items():
        assert abs(found[group] - Fraction(num * size, len(rows))) < 1
        left = [i for i in range(len(rows)) if groups[i] == group and i not in chosen]
        taken = [i for i in chosen if groups[i] == group]
        # Ties too: what comes earlier goes first.
        assert all((nlls[i], -i) > (nlls[j], -j) for i in taken for j in left)


@given(ROWS, st.data())
def test_another_order_of_the_candidates_chooses_equals(rows, data):
    """As long as neither group has the larger remainder only for standing first."""
    num = data.draw(st.integers(1, len(rows)))
    shuffled = data.draw(st.permutations(rows))
    if 2 * (num * sum(calls for _, calls in rows) % len(rows)) == len(rows):
        return

    def values(rows: Sequence[tuple[float, bool]]) -> list[tuple[float, bool]]:
        nlls, groups = zip(*rows, strict=True)
        return sorted(rows[i] for i in hardest(nlls, groups, num))

    assert values(rows) == values(shuffled)


class Policy:
    """Each token of a completion costs as many nats as its number says."""

    def __init__(self) -> None:
        self.asked: list[list[Tokens]] = []

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        self.asked.append(list(sequences))
        return [-float(sum(own_tokens(one))) for one in sequences]


def own_tokens(one: Tokens) -> list[int]:
    seen = {i for start, end in one.observed for i in range(start, end)}
    return [token for i, token in enumerate(one.completion) if i not in seen]


def prompts(ids: str) -> list[Prompt]:
    return [Prompt(id, (Message("user", "?"),), (1,)) for id in ids]


async def chosen(num: int, **completions: Sequence) -> str:
    shown = {
        id: Tokens((1,), tuple(tokens), tuple(observed))
        for id, (tokens, *observed) in completions.items()
    }
    policy = Policy()
    schedule = HardestSchedule(OneRound(prompts("".join(completions))), shown, policy, num)
    asked = await schedule.round(3)
    assert policy.asked == [list(shown.values())]
    assert await schedule.round(3) == asked
    return "".join(prompt.id for prompt in asked)


async def test_a_round_asks_what_costs_most_nats_per_own_token():
    # Per token 2, 3, 1 and 4; in all 8, 3, 5 and 4.
    found = await chosen(2, a=([2, 2, 2, 2],), b=([3],), c=([1] * 5,), d=([4],))
    assert found == "bd"
    # What a tool wrote counts in neither sum nor length: a costs 5 per token and c 6.
    found = await chosen(1, a=([5, 90, 90], (1, 3)), c=([0, 9, 6, 6], (0, 2)))
    assert found == "c"


async def test_demonstrations_that_call_are_compared_among_themselves():
    plain = {"a": ([9],), "c": ([8],), "e": ([7],), "f": ([6],)}
    calling = {"b": ([1, 0], (1, 2)), "d": ([2, 0], (1, 2))}
    both = dict(sorted((plain | calling).items()))
    assert await chosen(3, **both) == "acd"
    assert await chosen(6, **both) == "abcdef"


async def test_a_policy_that_has_learnt_is_asked_again():
    class Learns(Policy):
        async def logprobs(self, sequences):
            return [-x for x in await super().logprobs(sequences)]

    shown = {id: Tokens((1,), (n,)) for n, id in enumerate("abcd", start=1)}
    rounds = [
        await HardestSchedule(OneRound(prompts("abcd")), shown, policy, 2).round(0)
        for policy in (Policy(), Learns())
    ]
    assert ["".join(p.id for p in asked) for asked in rounds] == ["cd", "ab"]
