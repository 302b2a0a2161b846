"""A batch's pairs as numbers, whole, in parts joined again, and some of them."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from every_objective import batch_of, every_objective

from rlhf.records import (
    LOGGED,
    Columns,
    Completion,
    Preference,
    PreferenceBatch,
    Prompt,
    SidePair,
    SideTokens,
    Tokens,
)


def completion(prompt: str, sample: int, ids: tuple[int, ...], version=0, mixture=0.0):
    return Completion(prompt, sample, ids, (), "", False, version, mixture=mixture)


ONE, OTHER = Prompt("a", (), (1, 2)), Prompt("b", (), (1, 2))
PAIRS = [
    Preference.over(
        ONE, completion("a", 0, (3,)), completion("a", 1, (4,), LOGGED), 1.0, 0.25, "j@1", 0.5, 0.75
    ),
    Preference.over(
        OTHER, completion("b", 0, (4,)), completion("b", 1, (5, 6), mixture=0.5), 2.0, -1.0, "j@1"
    ),
    Preference.over(ONE, completion("a", 2, (3,)), completion("a", 1, (4,)), 1.0, 0.25, "j@1"),
]
NATS = [SidePair(-1.0, -2.0), SidePair(-2.0, -3.0), SidePair(-1.0, -2.0)]
TOKENS = [SideTokens([-1.0], [-2.0]), SideTokens([-2.0], [-1.0, -2.0]), SideTokens([-1.0], [-2.0])]


def batch(*places: int) -> PreferenceBatch:
    def some(values):
        return [values[i] for i in places]

    return PreferenceBatch(4, some(PAIRS), {"initial": some(NATS)}, {"initial": some(TOKENS)})


def same(one: Columns, other: Columns) -> bool:
    """The same pairs, wherever their rows stand."""

    def read(columns: Columns):
        prompts = [columns.prompts[i] for i in columns.pairs.prompt_B]
        rows = [[columns.rows[i] for i in sides] for sides in columns.pairs.row_BS]
        tokens = [[columns.tokens["initial"][i] for i in sides] for sides in columns.pairs.row_BS]
        return columns.round, prompts, rows, tokens

    arrays = zip(
        (*one.pairs[2:], one.anchors["initial"]),
        (*other.pairs[2:], other.anchors["initial"]),
        strict=True,
    )
    return read(one) == read(other) and all(np.array_equal(*both) for both in arrays)


def test_each_row_and_prompt_stands_once_and_pairs_say_where():
    columns = Columns.of(batch(0, 1, 2))
    assert len(columns) == 3 and columns.round == 4 and columns.prompts == ["a", "b"]
    # Rows of two prompts that read alike are one.
    assert columns.rows == [Tokens((1, 2), ids) for ids in ((3,), (4,), (5, 6))]
    pairs = columns.pairs
    assert pairs.row_BS.tolist() == [[0, 1], [1, 2], [0, 1]]
    assert pairs.prompt_B.tolist() == [0, 1, 0]
    assert pairs.weight_B.tolist() == [0.5, 1.0, 1.0]
    assert pairs.win_prob_B.tolist() == [0.75, 1.0, 1.0]
    assert pairs.score_BS.tolist() == [[1.0, 0.25], [2.0, -1.0], [1.0, 0.25]]
    assert pairs.mixture_BS.tolist() == [[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]
    assert pairs.is_own_BS.tolist() == [[True, False], [True, False], [True, True]]
    assert columns.anchors["initial"].tolist() == [list(one) for one in NATS]
    assert columns.tokens["initial"] == [[-1.0], [-2.0], [-1.0, -2.0]]
    assert list(columns.at([1]).read) == [Tokens((1, 2), (4,)), Tokens((1, 2), (5, 6))]
    assert same(pickle.loads(pickle.dumps(columns)), columns)


@pytest.mark.parametrize("cuts", [(1,), (2,), (0, 1, 1, 2), (0, 3)])
def test_portions_joined_are_the_whole(cuts):
    ends = [0, *cuts, 3]
    parts = [Columns.of(batch(*range(a, b))) for a, b in pairwise(ends)]
    joined = Columns.joined(parts)
    assert same(joined, Columns.of(batch(0, 1, 2)))
    assert joined.rows == Columns.of(batch(0, 1, 2)).rows and joined.prompts == ["a", "b"]


@pytest.mark.parametrize("places", [[], [2], [2, 0], range(1, 3)])
def test_some_pairs_are_those_that_were_asked_for(places):
    found = Columns.of(batch(0, 1, 2)).at(places)
    assert len(found) == len(places) and same(found, Columns.of(batch(*places)))


def test_a_score_that_is_no_number_is_refused():
    pair = Preference.over(ONE, completion("a", 0, (3,)), completion("a", 1, (4,)), None, 0, "j@1")
    with pytest.raises(TypeError):
        Columns.of(PreferenceBatch(0, [pair], {}))


async def test_whatever_an_objective_needs_comes_through():
    for name, objective in every_objective().items():
        made = await batch_of(objective)
        columns = Columns.of(made)
        assert columns.anchors.keys() == made.anchors.keys(), name
        assert columns.tokens.keys() == made.tokens.keys(), name
        for anchor, values in made.anchors.items():
            assert columns.anchors[anchor].tolist() == [list(one) for one in values], name
        sides = [side.tokens for pair in made.preferences for side in pair.sides]
        assert [columns.rows[i] for i in columns.pairs.row_BS.ravel()] == sides, name
