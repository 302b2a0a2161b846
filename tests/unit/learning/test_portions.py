"""A round in portions: which prompts share one, and that what is early is the same as what is
late."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.learning.anchors import Anchors
from rlhf.learning.portions import Portions
from rlhf.records import Collected, Completion, Preference, PreferenceBatch, Prompt, Tokens
from rlhf.stages import Outcome


def collected(name: str, prompt: int, *completions: int) -> Collected:
    """A prompt and completions of so many tokens; the first is better than each of the others."""
    asked = Prompt(name, (), (1,) * prompt)
    drawn = tuple(
        Completion(name, i, (i + 2,) * length, (), "", False, 0)
        for i, length in enumerate(completions)
    )
    pairs = [Preference.over(asked, drawn[0], one, 1.0, 0.0, "j@1") for one in drawn[1:]]
    return Collected(asked, drawn, None, tuple(pairs), ())


class Policy:
    """Notes what it is given and asked, in order, and is slow about it."""

    def __init__(self, slow: bool = False) -> None:
        self.portions: list[str] = []
        self.asked: list[tuple[int, ...]] = []
        self.slow = slow

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        self.asked.append(tuple(len(row.completion) for row in sequences))
        await asyncio.sleep(0.001 * self.slow)
        return [float(len(row.completion)) for row in sequences]

    async def accumulate(self, portion: PreferenceBatch) -> None:
        self.portions.append(names(portion))
        await asyncio.sleep(0.003 * self.slow)
        anchors = [tuple(pair) for pair in portion.anchors["initial"]]
        sides = [
            [len(side.completion.token_ids) for side in one.sides] for one in portion.preferences
        ]
        assert anchors == [tuple(map(float, pair)) for pair in sides]


def names(portion: PreferenceBatch) -> str:
    """The prompts that it has pairs of."""
    return "".join(dict.fromkeys(pair.prompt.id for pair in portion.preferences))


async def coming(
    ones: Sequence[Collected | None], pauses: Sequence[float] = (), order: Sequence[int] = ()
) -> AsyncIterator[Outcome]:
    for i, place in enumerate(order or range(len(ones))):
        if i < len(pauses):
            await asyncio.sleep(pauses[i])
        yield Outcome(place, ones[place])


async def prepared(
    ones, tokens, packs=True, slow=False, pauses=(), order=()
) -> tuple[list[str], Policy]:
    """All portions, the last one too."""
    policy = Policy(slow)
    portions = Portions(Anchors({"initial": policy}), policy, tokens, packs)  # type: ignore[arg-type]
    last = await portions.prepare(3, coming(ones, pauses, order))
    assert last.round == 3
    return [*policy.portions, names(last)], policy


ONES = [
    collected("a", 4, 2, 2),  # 8 tokens with the prompt once, 2 rows of 6 padded
    collected("b", 4, 2, 2),
    collected("c", 4, 2),  # no pair
    collected("d", 10, 3, 3, 3),  # 19 tokens
    collected("e", 1, 1, 1),  # 3 tokens
]


@pytest.mark.parametrize(
    ("tokens", "packs", "portions"),
    [
        (16, True, ["ab", "d", "e"]),
        (15, True, ["a", "b", "d", "e"]),
        (38, True, ["ab", "de"]),  # three of 19 would be 57
        (57, True, ["abd", "e"]),
        (76, True, ["abde"]),
        (24, False, ["ab", "d", "e"]),  # four rows of 6; three of 13
        (65, False, ["ab", "de"]),
        (1, True, ["a", "b", "d", "e"]),
    ],
)
async def test_a_portion_is_what_fits_one_pass_of_all_ranks(tokens, packs, portions):
    assert (await prepared(ONES, tokens, packs))[0] == portions


async def test_a_round_without_a_pair_is_one_portion_without_any():
    portions, policy = await prepared([ONES[2]] * 3, 5)
    assert portions == [""] and policy.asked == [()]
    assert (await prepared([], 5))[0] == [""]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5)), max_size=8),
    st.integers(1, 60),
    st.lists(st.sampled_from([0.0, 0.002]), max_size=8),
    st.sets(st.integers(0, 10), max_size=3),
    st.randoms(use_true_random=False),
)
def test_portions_and_what_anchors_are_asked_together_do_not_depend_on_time(
    rows, tokens, pauses, failed, draw
):
    ones = [collected(str(i), *row) for i, row in enumerate(rows)]
    asked: list[Collected | None] = list(ones)
    for place in sorted(failed):
        asked.insert(place, None)
    order = draw.sample(range(len(asked)), len(asked))
    early = asyncio.run(prepared(ones, tokens))
    late = asyncio.run(prepared(asked, tokens, slow=True, pauses=pauses, order=order))
    assert early[0] == late[0] and early[1].asked == late[1].asked
    assert "".join(early[0]) == "".join(map(str, range(len(ones))))


async def test_anchors_are_asked_and_the_policy_accumulates_before_all_is_there():
    policy, goes_on = Policy(), asyncio.Event()

    async def waiting() -> AsyncIterator[Outcome]:
        for place in (0, 3, 1):
            yield Outcome(place, ONES[place])
        await goes_on.wait()
        yield Outcome(2, ONES[2])

    portions = Portions(Anchors({"initial": policy}), policy, 8)  # type: ignore[arg-type]
    preparing = asyncio.create_task(portions.prepare(0, waiting()))
    async with asyncio.timeout(5):
        while not policy.portions:
            await asyncio.sleep(0)
        assert policy.asked == [(2, 2)] and not preparing.done()
        goes_on.set()
        assert names(await preparing) == "d"
    assert policy.portions == ["a", "b"]
