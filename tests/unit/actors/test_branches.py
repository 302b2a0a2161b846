"""Completions that share their prompt's keys: what is drawn is what would be drawn alone."""

import asyncio

import pytest
import torch

from actors import branches
from actors.branches import Branches, can_share, sharing_pays
from actors.engine import Drafts, GenerationRequest
from actors.transformers_engine import TransformersEngine
from rlhf.collecting.dispatch import Failure
from rlhf.config.models import DType, TinyModelConfig, TransformersRolloutConfig
from rlhf.models.loading import read_tokenizer
from rlhf.records import Sampling
from rlhf.toys.tiny import build_tiny_model

CPU = torch.device("cpu")


def test_logits_of_shared_lines_are_those_of_whole_rows(model):
    """Of three prompts of unequal lengths, four completions each, some of which end before others,
    and all of the second prompt's at once."""
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
    texts = [[(3 * i + 5 * t) % 17 for t in range(5)] for i in range(12)]
    going = Branches([model], prompts, 4, True, CPU)
    logits, left = going.begin()[0], list(range(12))
    for t in range(5):
        for i, found in zip(left, logits, strict=True):
            row = torch.tensor([prompts[i // 4] + texts[i][:t]])
            whole = model(input_ids=row).logits[0, -1]
            assert torch.allclose(found, whole, atol=1e-5, rtol=0), (i, t)
        stay = [k for k, i in enumerate(left) if (t, i // 4) != (2, 1) and (t, i) != (1, 3)]
        if len(stay) < len(left):
            left = [left[k] for k in stay]
            going.keep(torch.tensor(stay))
        if t < 4:
            logits = going.step(torch.tensor([texts[i][t] for i in left]))[0]
    assert len(left) == 7


def test_an_engine_draws_the_same_with_lines_shared_and_not(tmp_path, monkeypatch):
    build_tiny_model(TinyModelConfig(num_layers=2, width=32, num_heads=2), tmp_path, seed=1)
    tokenizer, config = read_tokenizer(str(tmp_path)), TransformersRolloutConfig()
    prompts = [(5, 6, 7), tuple(range(3, 12)), (8, 9)]

    def drawn(part: float) -> list[Drafts]:
        monkeypatch.setattr(branches, "LARGEST_PART", part)
        engine = TransformersEngine(str(tmp_path), DType.float32, config, [1], tokenizer)
        asked = [
            GenerationRequest(str(i), ids, Sampling(5, 6 + i), 100 * i)
            for i, ids in enumerate(prompts)
        ]

        async def all_of() -> dict[int, Drafts | Failure]:
            return {i: one async for batch in engine.generate(asked) for i, one in batch}

        found = asyncio.run(all_of())
        assert ("_can_share" in vars(engine)) == bool(part)  # that it could, was asked
        groups = [found[i] for i in range(len(prompts))]
        return [one for one in groups if not isinstance(one, Failure)]

    alone, shared = drawn(0.0), drawn(1.0)
    lengths = {len(draft.token_ids) for drafts in alone for draft in drafts}
    assert len(lengths) > 2  # some end before others
    for drafts, others in zip(alone, shared, strict=True):
        for one, other in zip(drafts, others, strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_model_that_heeds_no_mask_cannot_share(model):
    assert can_share(model, 17, CPU)
    assert not can_share(Deaf(model), 17, CPU)
    assert not can_share(Deaf(model, refuses=True), 17, CPU)


class Deaf:
    """Sees everything, whatever the mask, or refuses masks that are ready."""

    def __init__(self, model, refuses=False):
        self._model, self._refuses = model, refuses

    def __call__(self, attention_mask, **given):
        if attention_mask.dim() == 4:
            if self._refuses:
                raise ValueError("a mask of four dimensions")
            attention_mask = torch.ones_like(attention_mask[:, 0, 0], dtype=torch.long)
        return self._model(attention_mask=attention_mask, **given)


def test_lines_are_shared_where_they_leave_a_third_of_the_keys():
    # 512 + 8 x 64 = 1024 keys in place of 8 x 576 = 4608.
    assert sharing_pays([512] * 4, 64, 8)
    # 12 + 8 x 8 = 76 in place of 160; 512 + 2 x 64 = 640 in place of 1152.
    assert not sharing_pays([12] * 64, 8, 8)
    assert not sharing_pays([512], 64, 2)
    # 40 + 60 + 2 x 6 x 4 = 148 of 6 x (100 + 8) = 648; with 18 tokens 316 of 816.
    assert sharing_pays([40, 60], 4, 6)
    assert not sharing_pays([40, 60], 18, 6)
