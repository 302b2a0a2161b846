"""Token ids and log-probabilities: a tuple to whoever reads them, and small."""

import copy
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.records import Comparison, Completion, Judgement, Message, Preference, Prompt
from rlhf.records.numbers import Nats, TokenIds

ids = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
places = st.slices(20)


@given(ids, ids, places)
def test_read_like_the_tuple_that_they_came_from(ours, others, place):
    numbers = TokenIds(ours)
    assert (len(numbers), list(numbers), tuple(reversed(numbers))) == (
        len(ours), list(ours), ours[::-1],
    )  # fmt: skip
    assert numbers == ours and hash(numbers) == hash(ours)
    assert numbers[place] == ours[place] and hash(numbers[place]) == hash(ours[place])
    assert numbers + others == ours + others == ours + TokenIds(others)
    assert hash(ours + TokenIds(others)) == hash(ours + others)
    assert (numbers == TokenIds(others)) == (ours == others)
    assert (numbers < TokenIds(others)) == (ours < others)


@given(ids)
def test_arrive_as_they_were_sent(ours):
    for numbers in (TokenIds(ours), TokenIds(ours)[::2]):
        sent = pickle.loads(pickle.dumps(numbers))
        assert sent == numbers and hash(sent) == hash(numbers) and type(sent) is TokenIds
        assert copy.deepcopy(numbers) == numbers


def test_arrays_and_tensors_take_them():
    assert np.asarray(TokenIds([1, 2])).tolist() == [1, 2]
    assert torch.tensor(TokenIds([1, 2])).tolist() == [1, 2]
    row = np.zeros(3, dtype=np.int64)
    row[1:] = TokenIds([7, 9])
    assert row.tolist() == [0, 7, 9]


@pytest.mark.parametrize("wrong", [["a"], [1.5], [2**31], [None]])
def test_what_is_no_token_is_refused(wrong):
    with pytest.raises((TypeError, OverflowError)):
        TokenIds(wrong)


def test_nats_have_the_precision_of_engines():
    exact = torch.tensor([-0.1, -3.7], dtype=torch.float32).tolist()
    assert list(Nats(exact)) == exact
    assert Nats([-0.1]) != (-0.1,)
    assert Nats(Nats([-0.1])) == Nats([-0.1])


def test_a_completion_holds_eight_bytes_a_token_and_sends_no_more():
    size = 10_000
    long = Completion("p", 0, tuple(range(size)), (-0.5,) * size, "", False, 0)
    assert sys.getsizeof(long.token_ids._content) < 4.1 * size
    assert len(pickle.dumps(long)) < 8.1 * size
    again = pickle.loads(pickle.dumps(long))
    assert again == long and hash(again) == hash(long)


def test_records_arrive_as_they_were_sent():
    prompt = Prompt("p", (Message("user", "?"),), (1, 2), row={"more": 1})
    long = Completion("p", 0, (3, 4), (-0.5, -1.0), "text", False, 7, observed=((0, 1),))
    pair = Preference.over(prompt, long, replace(long, sample=1), 1.0, 0.0, "judge@1")
    verdict = Judgement((1.0, 0.0), "judge@1", parts={"a": (1.0, None)})
    for record in (pair, verdict, Comparison(((0.5,),), "judge@1")):
        sent = pickle.loads(pickle.dumps(record))
        assert sent == record and type(sent) is type(record)
    assert pickle.loads(pickle.dumps(prompt)).row == {"more": 1}


def test_what_is_compared_with_something_that_knows_how_is_left_to_it():
    assert Nats((-0.5, -1.25)) == pytest.approx([-0.5001, -1.25], abs=1e-3)
    assert Nats((-0.5, -1.25)) != pytest.approx([-0.6, -1.25], abs=1e-3)
    assert TokenIds((1, 2)) != [1, 2]
