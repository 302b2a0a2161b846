"""A cache with room: the numbers of transformers' own, and no copies while there is room."""

import pytest
import torch
from transformers import DynamicCache

from actors import cache
from actors.cache import roomy_cache


@torch.inference_mode()
def steps(model, known: DynamicCache) -> list[torch.Tensor]:
    """Logits of two prompts, three completions each, then a token, two, ten, and one of each."""
    tokens = torch.arange(6 * 20).view(6, 20) * 7 % 17
    found = [model(input_ids=tokens[:2, :5], past_key_values=known).logits]
    known.batch_repeat_interleave(3)
    for start, end in ((5, 6), (6, 8), (8, 18), (18, 19)):
        found.append(model(input_ids=tokens[:, start:end], past_key_values=known).logits)
    known.batch_select_indices(torch.tensor([4, 1]))
    found.append(model(input_ids=tokens[:2, 19:], past_key_values=known).logits)
    known.crop(-3)
    found.append(model(input_ids=tokens[:2, :2], past_key_values=known).logits)
    return found


@pytest.mark.parametrize("room", [1, 3, 32])
def test_logits_are_those_of_transformers_own_cache_bit_for_bit(model, room, monkeypatch):
    monkeypatch.setattr(cache, "LEAST_ROOM", room)
    for ours, theirs in zip(steps(model, roomy_cache()), steps(model, DynamicCache()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_token_more_is_written_where_there_is_room_for_it(monkeypatch):
    monkeypatch.setattr(cache, "LEAST_ROOM", 3)
    known, places = roomy_cache(), []
    for number in range(9):
        states = torch.full((1, 1, 1, 2), float(number))
        keys, values = known.update(states, -states, 0)
        places.append(keys.data_ptr())
        assert keys[0, 0, :, 0].tolist() == list(range(number + 1))
        assert torch.equal(values, -keys) and known.get_seq_length() == number + 1
    # One token, then room for three more, and for three more again.
    assert [places[i] == places[i - 1] for i in range(1, 9)] == [False, True, True] * 2 + [
        False,
        True,
    ]
